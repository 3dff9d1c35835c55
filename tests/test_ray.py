"""Ray: a study by several processes is the one of a single process, whatever becomes of them."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
from test_grid import MINE
from test_work import FICKLE

from prunebench import report
from prunebench.run import ray_cluster
from prunebench.run.grid import GridError, load
from prunebench.run.progress import Silent
from prunebench.run.ray_cluster import GIB, ExecutorError, Need, gpu_share, room
from prunebench.run.runner import Outcome, sweep

pytest.importorskip("ray")

BROKEN = MINE.replace("return tokens", "raise KeyError('no idea')\n#")
UNSERVED = MINE.replace("ScorePruner, register", "ScorePruner, Signal, register").replace(
    "    power", "    needs = frozenset({Signal.CLS_ATTENTION})\n    power"
)
"""Reads what the embedded model has not."""


def options(out: Path, *more: str) -> list[str]:
    return ["budgets=0.5", "controls=false", "cost=false", f"out={out}", *more]


def run(out: Path, *more: str, watcher: Any = None) -> Outcome:
    outcome = sweep(load(None, options(out, *more)), watcher)
    report.build(out)
    return outcome


def tables(study: Path) -> dict[str, bytes]:
    """The tables of a study, byte for byte."""
    return {path.name: path.read_bytes() for path in sorted(study.glob("*.csv"))}


def answers(study: Path) -> dict[str, pd.DataFrame]:
    return {
        path.parent.name: pd.read_parquet(path).drop(columns="seconds")
        for path in sorted(study.glob("cells/*/samples.parquet"))
    }


def assert_same(study: Path, other: Path) -> None:
    assert len(tables(study)) >= 2
    assert tables(study) == tables(other)
    expected, result = answers(study), answers(other)
    assert result.keys() == expected.keys()
    for cell, table in expected.items():
        pd.testing.assert_frame_equal(result[cell], table)


def statuses(study: Path) -> dict[str, list[str]]:
    """The status of every sample, by method."""
    result = {}
    for path in study.glob("cells/*/cell.json"):
        facts = json.loads(path.read_text())
        table = pd.read_parquet(path.parent / "samples.parquet")
        result[facts["method"]] = table["status"].tolist()
    return result


class Stop(Exception):
    """A test has seen enough."""


class Counting(Silent):
    """Counts answers and keeps notes; after so many answers it stops the sweep."""

    def __init__(self, most: int = 10**9) -> None:
        self.most, self.answers, self.total = most, 0, 0
        self.notes: list[str] = []
        self.steps: list[str] = []

    def doing(self, what: str) -> None:
        self.steps.append(what)

    def begin(self, cells: int, finished: int, answers: int) -> None:
        self.total = answers

    def advance(self, answers: int) -> None:
        self.answers += answers
        if self.answers >= self.most:
            raise Stop

    def note(self, text: str) -> None:
        self.notes.append(text)


def descendants() -> list[str]:
    result = []
    for process in psutil.Process().children(recursive=True):
        try:
            result.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return [line for line in result if "ray" in line]


def write_methods(folder: Path) -> str:
    """Methods of every kind: well, failing now and then, failing always."""
    (folder / "fickle.py").write_text(FICKLE)
    (folder / "broken.py").write_text(BROKEN)
    return f"methods=none,{folder / 'fickle.py'},{folder / 'broken.py'}"


def test_a_study_begun_here_and_ended_by_two_workers_is_that_of_this_process(
    tmp_path: Path,
) -> None:
    more = [write_methods(tmp_path), "limit=12"]
    whole = tmp_path / "whole"
    expected = run(whole, *more)
    other = tmp_path / "other"
    with pytest.raises(Stop):
        run(other, *more, watcher=Counting(10))
    handlers = {number: signal.getsignal(number) for number in ray_cluster.HANDLED}
    counting = Counting()
    result = run(other, *more, "executor=ray", "workers=2", watcher=counting)
    assert result.statuses == expected.statuses
    assert_same(whole, other)
    assert 0 < counting.total < 3 * 12
    assert counting.answers == counting.total
    # on a busy machine workers may be waited for; nothing else is worth a note
    assert [note for note in counting.notes if not note.startswith("waiting for")] == []
    assert descendants() == []
    assert {number: signal.getsignal(number) for number in handlers} == handlers
    # nothing of who worked at it is in the question
    text = (other / "grid.yaml").read_text()
    assert text == (whole / "grid.yaml").read_text()
    assert "ray" not in text
    assert "workers" not in text


TIMED = ("cost=true", "cost.pairs=2", "cost.warmup=0")


@pytest.mark.parametrize("cost", [(), TIMED], ids=["quality", "cost"])
def test_a_study_that_is_done_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cost: tuple[str, ...]
) -> None:
    import ray

    more = ["methods=random", "limit=2", *cost]
    first = run(tmp_path / "study", *more)
    monkeypatch.setattr(ray, "init", lambda **_options: pytest.fail("Ray is started"))
    again = run(tmp_path / "study", *more, "executor=ray", "workers=2")
    assert again.statuses == first.statuses


def test_cells_that_are_refused_need_no_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setattr(ray, "init", lambda **_options: pytest.fail("Ray is started"))
    file = tmp_path / "unserved.py"
    file.write_text(UNSERVED)
    outcome = run(tmp_path / "study", f"methods={file}", "limit=2", "executor=ray")
    assert set(outcome.statuses.values()) == {"unsupported"}


def test_where_no_worker_has_room_no_question_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_cluster, "machines", lambda _ray: [])
    with pytest.raises(ExecutorError, match="no machine has room for a worker"):
        run(tmp_path / "study", "methods=random", "limit=2", "executor=ray")
    assert not (tmp_path / "study" / "grid.yaml").exists()


def test_who_works_at_a_study_is_no_part_of_its_question() -> None:
    plain = load(None, ["methods=random"])
    by_ray = load(None, ["methods=random", "executor=ray", "workers=7", "ray_address=auto"])
    assert by_ray.digest() == plain.digest()
    assert by_ray.question() == plain.question()
    assert by_ray.folder() == plain.folder()


@pytest.mark.parametrize("option", ["workers=2", "ray_address=auto", "worker_gpu_memory=3"])
def test_what_only_ray_reads_is_refused_without_it(option: str) -> None:
    key = option.partition("=")[0]
    with pytest.raises(GridError, match=f"{key} is .*, which is Ray's; add executor=ray"):
        load(None, [option])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("executor=spark", "executor is 'spark'; it is one of local, ray"),
        ("workers=0", "workers is 0; it starts at 1"),
        ("worker_gpu_memory=-1", "worker_gpu_memory is -1.0; it is GiB, above 0"),
        ("ray_address=ray://here:10001", "sweep on one of its machines, with ray_address=auto"),
    ],
)
def test_bad_values_are_named(option: str, message: str) -> None:
    with pytest.raises(GridError, match=message):
        load(None, ["executor=ray", option])


def test_without_the_package_there_is_a_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ExecutorError, match=r"pip install 'prunebench\[ray\]' brings it"):
        run(tmp_path / "study", "methods=random", "executor=ray")
    assert not (tmp_path / "study").exists()


def test_a_worker_takes_of_a_gpu_what_its_model_needs() -> None:
    assert gpu_share(20 * GIB, 80 * GIB, workers_on_one=4) == 1 / 4
    assert gpu_share(30 * GIB, 80 * GIB, workers_on_one=4) == 1 / 2
    assert gpu_share(100 * GIB, 80 * GIB, workers_on_one=4) == 1
    assert gpu_share(1 * GIB, 80 * GIB, workers_on_one=2) == 1 / 2
    need = Need(2, gpus=1 / 3, memory=4 * GIB)
    machine = {"CPU": 64.0, "GPU": 2.0, "memory": 1000.0 * GIB}
    assert need.places(machine) == 6
    assert need.places({**machine, "CPU": 7.0}) == 3
    assert need.places({**machine, "memory": 9.0 * GIB}) == 2
    assert room([machine, {"CPU": 64.0}], need) == 6
    with pytest.raises(ExecutorError, match=r"takes 2 cores, 0.33 of a GPU, 4.0 GiB of memory; "):
        room([{"CPU": 64.0}], need)
