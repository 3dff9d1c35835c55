"""Sweep: the whole way on the embedded model, killed and continued, with everything that can be
wrong in a cell.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_benchmarks import write_task
from test_grid import MINE

from prunebench.cli import main

OPTIONS = [
    "limit=4",
    "budgets=0.5,0.1",
    "controls=false",
    "batch=1",
    "cost.pairs=1",
    "cost.warmup=0",
    "cost.new_tokens=2",
]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def start(*options: str, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "prunebench.cli", "sweep", *options]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**ENVIRONMENT, **environment},
    )


def run(*options: str, **environment: str) -> tuple[int, str, str]:
    process = start(*options, **environment)
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err


def run_here(capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str, str]:
    """The same in this process, where the imports are paid already."""
    code = main(["sweep", *options])
    return code, *capsys.readouterr()


def rows(study: Path) -> dict[str, pd.DataFrame]:
    """Every cell's samples, without what depends on the clock."""
    return {
        path.parent.name: pd.read_parquet(path).drop(columns="seconds")
        for path in sorted(study.glob("cells/*/samples.parquet"))
    }


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """An uninterrupted sweep, and the options it had; a method of the user's own is in it."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "mine.py").write_text(MINE)
    options = [f"methods=none,random,fastv,resize,{folder / 'mine.py'}", *OPTIONS]
    code, out, err = run(*options, f"out={folder / 'whole'}")
    assert code == 0, err
    assert "mine" in out
    assert "infeasible" in out
    return folder / "whole", options


def test_everything_is_written(study: tuple[Path, list[str]]) -> None:
    folder, _ = study
    assert {
        "grid.yaml",
        "metrics.csv",
        "leaderboard.csv",
        "leaderboard.html",
        "figures",
        "cells",
    } <= {path.name for path in folder.iterdir()}
    facts = {
        path.parent.name: json.loads(path.read_text()) for path in folder.glob("cells/*/cell.json")
    }
    assert len(facts) == 2 * (1 + 4 * 2)
    statuses = {name: cell["status"] for name, cell in facts.items()}
    infeasible = {name for name, status in statuses.items() if status == "infeasible"}
    assert infeasible == {f"tiny-qwen2.5-vl__fastv__0.1__scenes__s0{end}" for end in ("", "__cost")}
    assert set(statuses.values()) == {"ok", "infeasible"}
    cell = facts["tiny-qwen2.5-vl__mine__0.5__scenes__s0"]
    assert cell["settings"] == {"power": 2.0}
    assert cell["provenance"]["model_revision"].startswith("sha256:")
    names = {metric["metric"] for metric in cell["metrics"]}
    assert {
        "exact_match",
        "score",
        "tokens_mean",
        "flops_total",
        "kv_bytes",
        "evidence_recall",
    } <= names
    cost = facts["tiny-qwen2.5-vl__mine__0.5__scenes__s0__cost"]
    assert {"latency_prefill_ratio", "latency_total_ms", "kv_bytes"} <= {
        metric["metric"] for metric in cost["metrics"]
    }


def test_rows_say_what_was_kept(study: tuple[Path, list[str]]) -> None:
    table = rows(study[0])
    none = table["tiny-qwen2.5-vl__none__1.0__scenes__s0"]
    half = table["tiny-qwen2.5-vl__mine__0.5__scenes__s0"]
    small = table["tiny-qwen2.5-vl__resize__0.5__scenes__s0"]
    assert (none["tokens_mean"] == none["available"]).all()
    assert (none["evidence_recall"].dropna() == 1).all()
    assert (half["tokens_mean"] - none["available"] / 2).abs().max() <= 0.5
    assert (half["flops_llm"] < none["flops_llm"]).all()
    assert (half["flops_vision"] == none["flops_vision"]).all()
    assert (small["flops_vision"] < none["flops_vision"]).all()
    assert (small["available"] == none["available"]).all()
    assert (small["tokens_input"] <= small["available"] / 2).all()
    assert small["evidence_recall"].isna().all()
    # two heads of 40, keys and values, 4 bytes, 12 layers; the question's words and the image's two
    # marks beside the tokens
    per_token = 2 * 2 * 40 * 4 * 12
    dropped = none["tokens_mean"] - half["tokens_mean"]
    assert ((none["kv_bytes"] - half["kv_bytes"]) == per_token * dropped).all()


def test_cells_say_what_enters_every_layer(study: tuple[Path, list[str]]) -> None:
    for name, table in rows(study[0]).items():
        facts = json.loads((study[0] / "cells" / name / "cell.json").read_text())
        if facts["status"] != "ok":
            assert "entering" not in facts
            continue
        counts = np.stack(table["entering"].tolist())
        assert counts.shape == (4, 12)
        assert (counts.mean(axis=1) == table["tokens_mean"]).all()
        assert (counts[:, 0] == table["tokens_input"]).all()
        assert facts["entering"] == counts.mean(axis=0).tolist()
        assert "encoder" not in facts, "none of these methods loses tokens there"
    steps = rows(study[0])["tiny-qwen2.5-vl__fastv__0.5__scenes__s0"]
    assert set(steps["sites"]) == {"llm:2"}
    for counts, stages in zip(steps["entering"], steps["stages"], strict=True):
        assert len(set(counts[:2])) == 1
        assert counts[2:].tolist() == [stages[0]] * 10


def test_run_again_it_has_nothing_to_do(
    study: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, options = study
    before = {path: path.stat().st_mtime_ns for path in folder.glob("cells/*/*")}
    code, _, err = run_here(capsys, *options, f"out={folder}")
    assert code == 0
    assert "18 cells, 18 of them done before, 0 calls" in err
    assert {path: path.stat().st_mtime_ns for path in folder.glob("cells/*/*")} == before


@pytest.mark.slow
def test_killed_in_the_middle_and_run_again(study: tuple[Path, list[str]]) -> None:
    whole, options = study
    folder = whole.parent / "killed"
    process = start(*options, f"out={folder}")
    deadline = time.monotonic() + 500
    while process.poll() is None and time.monotonic() < deadline:
        journals = list(folder.glob("cells/*/samples.jsonl"))
        if sum(path.read_bytes().count(b"\n") - 1 for path in journals) >= 7:
            break
        time.sleep(0.01)
    assert process.poll() is None, "the sweep was over before it could be killed"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    code, _, err = run(*options, f"out={folder}")
    assert code == 0, err
    expected, found = rows(whole), rows(folder)
    assert found.keys() == expected.keys()
    for cell, table in expected.items():
        pd.testing.assert_frame_equal(found[cell], table)


def test_a_batch_is_its_samples_one_by_one(
    study: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [
        "methods=none,random,resize",
        "limit=4",
        "budgets=0.5",
        "controls=false",
        "cost=false",
        "batch=3",
    ]
    assert run_here(capsys, *options, f"out={tmp_path / 'study'}")[0] == 0
    alone, together = rows(study[0]), rows(tmp_path / "study")
    assert len(together) == 3
    for cell, table in together.items():
        padded = ["kv_bytes_padded"]  # holds the padding of the batch
        pd.testing.assert_frame_equal(table.drop(columns=padded), alone[cell].drop(columns=padded))


def test_a_broken_image_fails_its_sample_and_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = write_task(tmp_path / "task", broken=1)
    options = (
        f"tasks={task}",
        "methods=none",
        "cost=false",
        "limit=3",
        f"out={tmp_path / 'study'}",
    )
    code, _, err = run_here(capsys, *options, "controls=false")
    assert code == 0, err
    (cell,) = (tmp_path / "study" / "cells").iterdir()
    facts = json.loads((cell / "cell.json").read_text())
    assert facts["status"] == "ok"
    assert facts["samples"] == {"asked": 3, "answered": 2}
    assert facts["reason"].startswith(
        "speaks for 2 of 3 samples; 1 could not be answered: sample q1 of"
    )
    table = pd.read_parquet(cell / "samples.parquet").set_index("sample_id")
    assert table["status"].to_dict() == {"q0": "ok", "q1": "unreadable", "q2": "ok"}
    assert table["score"].isna().to_dict() == {"q0": False, "q1": True, "q2": False}
    assert next(metric for metric in facts["metrics"] if metric["metric"] == "accuracy")["n"] == 2


BROKEN = MINE.replace(
    "return tokens.features.norm(p=self.power, dim=-1)", 'raise RuntimeError("no idea")'
)


def test_a_method_that_raises_is_one_failed_cell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text(BROKEN)
    options = [
        f"methods=none,{tmp_path / 'mine.py'}",
        "budgets=0.5",
        "controls=false",
        "cost=false",
        "limit=2",
    ]
    code, out, err = run_here(capsys, *options, f"out={tmp_path / 'study'}")
    assert code == 1
    assert "mine__0.5__scenes__s0" in err
    facts = [
        json.loads(path.read_text()) for path in (tmp_path / "study").glob("cells/*/cell.json")
    ]
    assert {cell["method"]: cell["status"] for cell in facts} == {"none": "ok", "mine": "failed"}
    reason = next(cell["reason"] for cell in facts if cell["method"] == "mine")
    assert reason.startswith("RuntimeError: no idea\nTraceback")
    assert "no idea" in out


def test_a_model_that_cannot_be_fetched_is_one_line(tmp_path: Path) -> None:
    options = ["model=qwen2.5-vl", "methods=fastv", "tasks=gqa", f"out={tmp_path / 'study'}"]
    code, out, err = run(*options, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "empty"))
    assert code == 2
    assert out == ""
    last = err.strip().splitlines()[-1]
    assert last.startswith(
        "prunebench: error: model qwen2.5-vl: Qwen/Qwen2.5-VL-7B-Instruct is not in the local cache"
    )
    assert "Traceback" not in err
    assert not (tmp_path / "study").exists()
