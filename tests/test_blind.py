"""The blind control: what is answered without the image stands beside tasks that ask for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hand_written import cell
from test_trial import TASK

from prunebench import registry, report
from prunebench.budget import Budget
from prunebench.run.grid import GridError, build, load
from prunebench.run.runner import sweep
from prunebench.study.record import BLIND


@pytest.fixture
def task(tmp_path: Path) -> Path:
    (tmp_path / "utils.py").write_text("def visual(doc): return [doc['image'].convert('RGB')]\n")
    file = tmp_path / "mine.yaml"
    file.write_text(TASK.replace("{scenes", "{blind: true, scenes"))
    return file


def test_it_keeps_nothing_whatever_the_budget() -> None:
    pruner = registry.build(BLIND)
    for budget in (None, Budget(0.5), Budget(64)):
        assert [stage.keep for stage in pruner.plan(budget, 64, 4)] == [0]


def test_a_task_asks_for_it_and_others_do_not(task: Path) -> None:
    words = [f"tasks={task},scenes_text", "methods=fastv", "budgets=0.5,0.25"]
    grid = load(None, words)
    blind = [one for one in grid.cells(grid.tasks) if one.variant.name == BLIND]
    assert [one.id for one in blind] == ["tiny-qwen2.5-vl__blind__0__mine__s0"]
    assert blind[0].kind == "quality"
    without = load(None, [*words, "controls=false"])
    assert all(one.variant.name != BLIND for one in without.cells(without.tasks))
    public = load(None, ["tasks=scienceqa_img,gqa", "methods=fastv"])
    names = [one.task for one in public.cells(public.tasks) if one.variant.name == BLIND]
    assert names == ["scienceqa_img"]


def test_asked_for_by_name_it_runs_once_a_task(task: Path) -> None:
    grid = load(None, [f"tasks={task},scenes_text", "methods=blind", "budgets=0.5,0.25"])
    blind = [one for one in grid.cells(grid.tasks) if one.variant.name == BLIND]
    assert [one.task for one in blind if one.kind == "quality"] == [str(task), "scenes_text"]
    with pytest.raises(GridError, match="label 'blind' is that of the control"):
        build({"methods": [{"name": "fastv", "label": BLIND}]}).variants()


def test_all_methods_are_those_to_compare() -> None:
    assert BLIND not in {variant.name for variant in load().variants()}


def test_a_sweep_has_it_beside(task: Path, tmp_path: Path) -> None:
    words = [f"tasks={task}", "methods=random", "budgets=0.5", "limit=4", "cost=false"]
    outcome = sweep(load(None, [*words, "batch=4", f"out={tmp_path / 'study'}"]))
    assert set(outcome.statuses.values()) == {"ok"}
    name = "tiny-qwen2.5-vl__blind__0__mine__s0"
    rows = pd.read_parquet(tmp_path / "study" / "cells" / name / "samples.parquet")
    assert (rows["tokens_mean"] == 0).all()
    assert (rows["flops_llm"] > 0).all()


def test_the_leaderboard_says_what_stands_above_it(tmp_path: Path) -> None:
    cell(tmp_path, "none", "color", [1, 1, 1, 1])
    cell(tmp_path, "fastv", "color", [1, 1, 0, 1])
    report.build(tmp_path)
    plain = pd.read_csv(tmp_path / "leaderboard.csv", keep_default_na=False)
    assert "above_blind" not in plain.columns
    facts: dict[str, Any] = {"budget_kind": "", "control": True}
    cell(tmp_path, BLIND, "color", [1, 0, 0, 0], budget="0", **facts)
    report.build(tmp_path)
    board = pd.read_csv(tmp_path / "leaderboard.csv", keep_default_na=False).set_index("method")
    extra = {"above_blind", "above_blind_low", "above_blind_high", "above_blind_p"}
    extra |= {"n_paired_blind"}
    assert {*board.columns} == {*plain.columns.drop("method"), *extra, "accuracy_blind"}
    assert board.loc[["none", "fastv"], "accuracy_blind"].tolist() == ["0.25", "0.25"]
    above = board["above_blind"]
    assert float(above["none"]) == pytest.approx(0.75)
    assert float(above["fastv"]) == pytest.approx(0.5)
    assert above[BLIND] == ""
    assert float(board["difference_to_none"][BLIND]) == pytest.approx(-0.75)


def test_the_terminal_says_what_is_answered_without(tmp_path: Path) -> None:
    facts: dict[str, Any] = {"budget_kind": "", "control": True}
    for name in ("color", "count"):
        cell(tmp_path, "none", name, [1, 1, 1, 1])
    cell(tmp_path, BLIND, "color", [1, 0, 0, 0], budget="0", **facts)
    report.build(tmp_path)
    caption = str(report.terminal(tmp_path).caption)
    assert "on color: 0.250 without the image, 1.000 with it unpruned" in caption
    board = pd.read_csv(tmp_path / "leaderboard.csv", keep_default_na=False)
    assert not ((board["method"] == BLIND) & (board["task"] == "all")).any()
