"""Public models and tasks by their ids, through the real program, from a hub of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from hub import Hub, Server
from hub.hub import PRUNEBENCH

from prunebench.benchmarks import expand
from prunebench.benchmarks.quiet import quiet

ROOT = Path(__file__).parents[1]
QWEN = "Qwen/Qwen2.5-VL-7B-Instruct"
ALIASES = {
    QWEN: "qwen2.5-vl",
    "Qwen/Qwen3-VL-8B-Instruct": "qwen3-vl-8b",
    "llava-hf/llava-1.5-7b-hf": "llava-1.5",
}
POPE = "lmms-lab-encoder/POPE"
SUITES = ("understanding", "reading", "localisation", "separates", "quick")


def data_of(task: str) -> str:
    """The data set of a task's questions."""
    with quiet():
        from prunebench.benchmarks import lmms

        file = lmms.file_of(task, [])
        assert file is not None
        return str(lmms.definition(task, file)["dataset_path"])


def board(study: Path) -> pd.DataFrame:
    return pd.read_csv(study / "leaderboard.csv")


def sweep(hub: Hub, server: Server, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    given = ["controls=false", "cost=false", "out=study", *words]
    return hub.run([*PRUNEBENCH, "sweep", *given], folder, server)


def test_a_public_task_on_a_public_model(hub: Hub, server: Server, tmp_path: Path) -> None:
    hub.provide(QWEN, POPE)
    words = ["model=qwen2.5-vl", "methods=fastv", "tasks=pope", "budgets=0.5", "limit=2"]
    process = sweep(hub, server, tmp_path, *words)
    assert process.returncode == 0, process.stderr
    (row,) = board(tmp_path / "study").to_dict("records")
    assert (row["status"], row["n_asked"]) == ("ok", 2), row["reason"]
    assert row["tokens_mean_share"] == pytest.approx(0.5, abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("model", ALIASES)
def test_a_family_by_its_short_name(hub: Hub, server: Server, tmp_path: Path, model: str) -> None:
    hub.provide(model, POPE, "lmms-lab-encoder/textvqa")
    words = [f"model={ALIASES[model]}", "methods=none,fastv,divprune", "tasks=pope,textvqa_val"]
    process = sweep(hub, server, tmp_path, *words, "budgets=0.5", "limit=4")
    assert process.returncode == 0, process.stderr
    rows = board(tmp_path / "study")
    assert list(rows["status"].unique()) == ["ok"], rows[["method", "task", "reason"]]
    pruned = rows[rows["budget"] < 1]
    assert (pruned["tokens_mean_share"] >= 0.4).all()
    # to the nearest token, so a little above it too
    assert (pruned["tokens_mean"] <= 0.5 * pruned["tokens_available"] + 0.5).all()


@pytest.mark.slow
def test_the_command_that_the_readme_begins_with(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """At the public number of layers, through make, all samples and the cost of the first task."""
    deep = Hub(tmp_path_factory.mktemp("deep"), layers=None)
    deep.provide(QWEN, *(data_of(task) for task in ("gqa", "textvqa_val", "pope")))
    stamp = f"{sys.prefix}/.installed"  # this environment is the one that make would set up
    words = ["MODEL=qwen2.5-vl", "METHODS=fastv,divprune", "TASKS=gqa,textvqa_val,pope"]
    words += ["BUDGETS=0.25,0.1", f"OUT={tmp_path / 'study'}", f"VENV={sys.prefix}"]
    make = ["make", f"--assume-old={stamp}", "sweep", *words]
    with Server(deep.root) as server:
        process = deep.run(make, ROOT, server, seconds=3000, PATH=os.environ["PATH"])
    assert process.returncode == 0, process.stderr
    rows = board(tmp_path / "study")
    tasks = rows[rows["task"] != "all"]
    assert set(tasks["task"]) == {"gqa", "textvqa_val", "pope"}
    assert set(tasks["method"]) >= {"none", "fastv", "divprune"}
    assert not tasks["status"].isin(["failed", "oom"]).any(), tasks[["method", "task", "reason"]]


@pytest.mark.slow
@pytest.mark.parametrize("suite", SUITES)
def test_a_suite_comes_to_its_end(hub: Hub, server: Server, tmp_path: Path, suite: str) -> None:
    tasks = expand(suite)
    hub.provide(QWEN, *(data_of(task) for task in tasks))
    words = ["model=qwen2.5-vl", "methods=none,divprune", f"tasks={suite}", "budgets=0.5"]
    process = sweep(hub, server, tmp_path, *words)
    assert process.returncode == 0, process.stderr
    rows = board(tmp_path / "study")
    assert set(rows["task"]) >= set(tasks)
    assert not rows["status"].isin(["failed", "oom"]).any(), rows[["method", "task", "reason"]]


@pytest.mark.slow
def test_tasks_are_tried_out_before_a_sweep(hub: Hub, server: Server, tmp_path: Path) -> None:
    tasks = [*expand("separates"), "scienceqa_img", "refcoco_bbox_rec_val"]
    hub.provide(QWEN, *(data_of(task) for task in tasks))
    words = [f"tasks={','.join(tasks)},no_such_task", "model=qwen2.5-vl"]
    process = hub.run([*PRUNEBENCH, "check", *words, "methods=fastv"], tmp_path, server)
    lines = process.stdout.splitlines()
    faults = [line.partition(":")[0] for line in lines if line.startswith("FAIL")]
    assert faults == ["FAIL no_such_task"], process.stdout + process.stderr
    assert process.returncode == 1
    assert "21 cells, 168 calls" in next(line for line in lines if "gqa" in line)
    # its blind control is one more
    assert "22 cells, 176 calls" in next(line for line in lines if "scienceqa_img" in line)
