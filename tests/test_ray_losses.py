"""Ray where processes die, hang and take all memory: nothing is lost, and nothing doubled."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
from test_grid import MINE
from test_ray import (
    TIMED,
    Counting,
    answers,
    assert_same,
    options,
    run,
    statuses,
    write_methods,
)

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("KILLS", "50"))
DRIVER_KILLS = KILLS // 5

POISON = """
import ctypes, os, signal

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def hang():
    # a call into a library that never returns, and that no alarm interrupts
    lock = ctypes.create_string_buffer(256)
    library = ctypes.CDLL(None)
    library.pthread_mutex_lock(lock)
    library.pthread_mutex_lock(lock)

def hog():
    hoard = []
    while True:
        hoard.append(bytearray(b"x") * 2**26)
"""


def poison(act: str, samples: str) -> str:
    """A method that does that to its process on samples whose seed fulfils a condition."""
    return POISON + MINE.replace(
        "        return tokens",
        f"        if {samples}:\n            {act}()\n        return tokens",
    )


def command(out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "prunebench.cli", "sweep", *options(out, *more)]


def start(words: list[str], folder: str | None = None) -> subprocess.Popen[str]:
    """A sweep in a process of its own; what Ray leaves of one that is killed is in the folder."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if folder is not None:
        environment["RAY_TMPDIR"] = folder
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(words, **pipes, text=True, env=environment)


@pytest.fixture
def short() -> Iterator[str]:
    """A folder whose name is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="r-", ignore_cleanup_errors=True) as folder:
        yield folder


def workers_of(process: psutil.Process) -> list[psutil.Process]:
    """The workers of a driver, once they are at work."""
    result = []
    with suppress(psutil.Error):
        for child in process.children(recursive=True):
            with suppress(psutil.Error):
                if "ray::RayWorker.work" in " ".join(child.cmdline()):
                    result.append(child)
    return result


def journal_lines(study: Path) -> int:
    total = 0
    for path in study.glob("cells/*/samples.jsonl"):
        with suppress(FileNotFoundError):
            total += path.read_bytes().count(b"\n")
    return total


def test_fifty_kills_lose_nothing_and_double_nothing(tmp_path: Path, short: str) -> None:
    """Workers are killed at random times while they work, and now and then the driver, which the
    same command then continues.
    """
    methods = f"{write_methods(tmp_path)},random,uniform,resize"
    more = [methods, "budgets=0.5,0.25"]
    run(tmp_path / "whole", *more)
    study = tmp_path / "killed"
    words = command(study, *more, "executor=ray", "workers=2")
    chance = random.Random(0)
    kills = driver_kills = 0
    driver = start(words, short)
    while True:
        time.sleep(chance.uniform(0.2, 3.0))
        if driver.poll() is not None:
            break
        workers = workers_of(psutil.Process(driver.pid))
        if not workers:
            continue
        if driver_kills < DRIVER_KILLS and (kills - driver_kills) >= 4 * (driver_kills + 1):
            driver.kill()
            driver.communicate()
            driver_kills += 1
            kills += 1
            wait_for_the_end_of(workers)
            driver = start(words, short)
        elif kills < KILLS:
            with suppress(psutil.Error):
                chance.choice(workers).kill()
                kills += 1
    output, _ = driver.communicate()
    # the method that always fails makes the command end with 1
    assert driver.returncode == 1, output
    assert kills >= KILLS, f"the sweep was over after {kills} kills"
    assert driver_kills == DRIVER_KILLS
    assert_same(tmp_path / "whole", study)
    for path in study.glob("cells/*/samples.parquet"):
        assert pd.read_parquet(path)["sample_id"].is_unique


def wait_for_the_end_of(processes: list[psutil.Process]) -> None:
    """A cluster ends with the driver that began it."""
    _, alive = psutil.wait_procs(processes, timeout=60)
    assert not alive


@pytest.mark.parametrize("batch", [1, 3])
def test_a_sample_that_kills_its_worker_is_one_row(tmp_path: Path, batch: int) -> None:
    (tmp_path / "poison.py").write_text(poison("die", "tokens.seed % 7 == 0"))
    methods = f"methods=none,random,{tmp_path / 'poison.py'}"
    more = ["limit=6", f"batch={batch}", "executor=ray", "workers=2"]
    outcome = run(tmp_path / "study", methods, *more)
    run(tmp_path / "whole", "methods=none,random", *more[:2])
    everything = answers(tmp_path / "study")
    for cell, table in answers(tmp_path / "whole").items():
        pd.testing.assert_frame_equal(everything[cell], table)
    result = statuses(tmp_path / "study")
    assert result["none"] == result["random"] == ["ok"] * 6
    lost = result["poison"].count("failed")
    assert 0 < lost < 3
    assert result["poison"].count("ok") == 6 - lost
    assert list(outcome.statuses.values()).count("failed") == 1
    table = pd.read_parquet(
        next((tmp_path / "study").glob("cells/*poison*/samples.parquet"))
    ).set_index("status")
    assert "ended without a word" in table.loc[["failed"], "error"].iloc[0]


def test_a_sample_that_hangs_for_good_is_a_timeout(tmp_path: Path) -> None:
    (tmp_path / "poison.py").write_text(poison("hang", "tokens.seed % 7 == 0"))
    methods = f"methods=none,{tmp_path / 'poison.py'}"
    run(tmp_path / "study", methods, "limit=4", "timeout=5", "executor=ray", "workers=2")
    result = statuses(tmp_path / "study")
    assert result["none"] == ["ok"] * 4
    assert set(result["poison"]) == {"ok", "timeout"}


def test_a_worker_that_takes_all_memory_is_out_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the machine is another's as well, so that "all" is 3 GB more than is used now
    memory = psutil.virtual_memory()
    share = (memory.total - memory.available + 3e9) / memory.total
    monkeypatch.setenv("RAY_memory_usage_threshold", f"{share:.3f}")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "100")
    (tmp_path / "poison.py").write_text(poison("hog", "tokens.seed % 7 == 0"))
    methods = f"methods=none,{tmp_path / 'poison.py'}"
    run(tmp_path / "study", methods, "limit=4", "executor=ray", "workers=2")
    result = statuses(tmp_path / "study")
    assert result["none"] == ["ok"] * 4
    assert set(result["poison"]) == {"ok", "oom"}


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Two machines, as far as Ray can tell."""
    from ray.cluster_utils import Cluster

    node: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    nodes: Any = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    nodes.add_node(**node)
    yield nodes
    nodes.shutdown()


def test_a_cluster_of_two_machines_of_which_one_goes(tmp_path: Path, cluster: Any) -> None:
    more = [write_methods(tmp_path), "limit=60"]
    run(tmp_path / "whole", *more)
    study = tmp_path / "spread"
    words = command(study, *more, "executor=ray", f"ray_address={cluster.address}")
    driver = start(words)
    while driver.poll() is None and journal_lines(study) < 40:
        time.sleep(0.1)
    assert driver.poll() is None, driver.communicate()[0]
    # the one that was added last, with its worker
    cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)
    output, _ = driver.communicate(timeout=600)
    assert driver.returncode == 1, output
    assert_same(tmp_path / "whole", study)


def test_a_study_that_is_done_takes_no_worker_of_a_cluster(tmp_path: Path, cluster: Any) -> None:
    more = ["methods=random", "limit=2", *TIMED]
    first = run(tmp_path / "study", *more)
    counting = Counting()
    address = f"ray_address={cluster.address}"
    again = run(tmp_path / "study", *more, "executor=ray", address, watcher=counting)
    assert again.statuses == first.statuses
    assert not [step for step in counting.steps if "worker" in step]


def test_workers_ask_one_model_after_the_other(tmp_path: Path) -> None:
    more = ["models=tiny-qwen2.5-vl,tiny-llava-1.5", "methods=random,fastervlm", "limit=6"]
    run(tmp_path / "whole", *more)
    run(tmp_path / "spread", *more, "executor=ray", "workers=2")
    assert_same(tmp_path / "whole", tmp_path / "spread")


def test_costs_by_workers(tmp_path: Path) -> None:
    """The cells of cost are there, and what in them is no time is as it is in one process."""
    more = ["methods=none,random", "budgets=0.5", "limit=2", "cost.pairs=2", "cost.warmup=0"]
    run(tmp_path / "whole", *more, "cost=true")
    counting = Counting()
    run(tmp_path / "spread", *more, "cost=true", "executor=ray", "workers=2", watcher=counting)
    assert counting.answers == counting.total
    cells = sorted(path.name for path in (tmp_path / "whole").glob("cells/*__cost"))
    assert len(cells) == 2
    for cell in cells:
        tables = [
            pd.read_parquet(tmp_path / study / "cells" / cell / "pairs.parquet")
            for study in ("whole", "spread")
        ]
        same = ["pair", "variant", "tokens", "kv_bytes"]
        same = [name for name in same if name in tables[0]]
        pd.testing.assert_frame_equal(tables[0][same], tables[1][same])


def test_control_c_leaves_no_process(tmp_path: Path) -> None:
    words = command(tmp_path / "study", "methods=random", "limit=400", "executor=ray", "workers=2")
    driver = start(words)
    while driver.poll() is None and journal_lines(tmp_path / "study") < 3:
        time.sleep(0.1)
    others = psutil.Process(driver.pid).children(recursive=True)
    assert others
    driver.send_signal(signal.SIGINT)
    output, _ = driver.communicate(timeout=120)
    assert driver.returncode == 130, output
    assert "the same command goes on from here" in output
    wait_for_the_end_of(others)
