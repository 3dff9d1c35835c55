"""Own operating points and the nearest reach: what each method spends as its paper runs it, and
what becomes of a budget that it cannot spend.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from prunebench import report
from prunebench.budget import Budget
from prunebench.run.grid import GridError, load
from prunebench.run.progress import Silent
from prunebench.run.runner import sweep

OPTIONS = ["limit=3", "cost=false"]


class Notes(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


def board(out: Path, *more: str, watcher: Any = None) -> Any:
    sweep(load(None, [*OPTIONS, f"out={out}", *more]), watcher)
    report.build(out)
    table = pd.read_csv(out / "leaderboard.csv", keep_default_na=False, dtype=str)
    return table.set_index(["method", "budget"])


def test_own_is_each_method_as_its_paper_runs_it(tmp_path: Path) -> None:
    notes = Notes()
    methods = "methods=fastv,pyramiddrop,divprune,fastervlm"
    table = board(tmp_path, methods, "budgets=own,0.5", watcher=notes)
    rows = table[table.index.get_level_values("budget") == "own"]
    assert sorted(rows.index.get_level_values("method")) == ["divprune", "fastv", "pyramiddrop"]
    assert set(rows["status"]) == {"ok"}
    # half of the tokens from layer 2 of 12 on
    spent = rows["tokens_mean_share"].xs("own", level="budget").astype(float)
    assert spent["fastv"] == pytest.approx((2 + 10 * 0.5) / 12, abs=0.01)
    assert spent["divprune"] == pytest.approx(0.098, abs=0.01)
    # at 0.5 everybody stands beside random, at its own point nobody does
    assert set(rows["better_than_random"]) == {""}
    assert table.loc[("divprune", "0.5"), "better_than_random"] in ("yes", "no")
    assert [text for text in notes.texts if "budget own" in text and text.endswith(": fastervlm")]


def test_a_grid_of_own_points_names_a_method_that_has_one() -> None:
    with pytest.raises(GridError, match=r"none of the methods has an operating point.*fastervlm"):
        load(None, ["methods=fastervlm", "budgets=own"])
    assert load(None, ["methods=fastervlm,fastv", "budgets=own"]).without_own() == ["fastervlm"]


def test_the_nearest_reach_is_run_and_marked(tmp_path: Path) -> None:
    """FastV reads two of twelve layers whole: a tenth of the tokens is out of its reach."""
    exact = board(tmp_path / "exact", "methods=fastv", "budgets=0.1,0.5")
    assert exact.loc[("fastv", "0.1"), "status"] == "infeasible"
    table = board(tmp_path / "nearest", "methods=fastv", "budgets=0.1,0.5", "reach=nearest")
    row = table.loc[("fastv", "0.1")]
    assert row["status"] == "ok"
    assert float(row["tokens_mean_share"]) == pytest.approx(2 / 12, abs=0.02)
    assert "cannot spend 0.1: runs at the nearest that it can, a share of 0.17" in row["reason"]
    # a sixth of the tokens against a tenth is no comparison
    assert list(row[["better_than_random", "difference_to_random"]]) == ["", ""]
    kept = table.loc[("fastv", "0.5")]
    assert kept["reason"] == ""
    assert kept["better_than_random"] in ("yes", "no")
    same = ["accuracy", "tokens_mean", "difference_to_random"]
    assert list(kept[same]) == list(exact.loc[("fastv", "0.5")][same])
    path = next((tmp_path / "nearest").glob("cells/*fastv__0.1*/cell.json"))
    assert json.loads(path.read_text())["reach"] == "nearest"


def test_a_budget_says_that_the_nearest_will_do() -> None:
    budget = Budget.parse("~kv:0.25")
    assert budget == Budget(0.25, "kv", nearest=True)
    assert str(budget) == "~kv:0.25"
    with pytest.raises(GridError, match=r"write 0\.25 and reach=nearest"):
        load(None, ["methods=fastv", "budgets=~0.25"])


def test_what_stands_in_for_a_missing_cls_token_is_said_in_every_row(tmp_path: Path) -> None:
    options = ["methods=fastervlm,divprune", "budgets=0.5", "controls=false", "limit=2"]
    sweep(load(None, [*options, "cost=false", f"out={tmp_path}"]))
    report.build(tmp_path)
    table = pd.read_csv(tmp_path / "leaderboard.csv", keep_default_na=False, dtype=str)
    ports: Any = table.set_index("method")["port"]
    assert ports["fastervlm"] == "received_attention in place of cls_attention"
    assert ports["divprune"] == ""
    options[0] = "methods=fastervlm"
    sweep(load(None, [*options, "model=tiny-llava-1.5", "cost=false", f"out={tmp_path / 'cls'}"]))
    report.build(tmp_path / "cls")
    table = pd.read_csv(tmp_path / "cls" / "leaderboard.csv", keep_default_na=False, dtype=str)
    assert set(table["status"]) == {"ok"}
    assert "port" not in table


CLIPPED = """- {name: maskclip, clip: tiny-clip}
- {name: hero, label: hero-clip, clip: tiny-clip}
"""
QUESTIONED = "glimpseprune,resprune,ptp,hero,fastv,gswa,igva,stdmmf"


def test_every_founding_method_has_rows_on_an_encoder_without_cls_crops_or_clip(
    tmp_path: Path,
) -> None:
    """On the miniature Qwen2.5-VL, MaskCLIP++ with a CLIP that is named."""
    grid = tmp_path / "grid.yaml"
    names = "".join(f"- {name}\n" for name in QUESTIONED.split(","))
    grid.write_text(f"methods:\n{names}{CLIPPED}budgets: [0.75]\ncontrols: false\n")
    out = tmp_path / "out"
    sweep(load(grid, ["limit=2", "cost=false", f"out={out}"]))
    report.build(out)
    table = pd.read_csv(out / "leaderboard.csv", keep_default_na=False, dtype=str)
    by_method: Any = table.set_index("method")
    assert set(by_method["status"]) == {"ok"}, by_method[["status", "reason"]]
    regions = "equal parts of the picture in place of crops"
    for method in ("hero", "gswa", "ptp"):
        assert regions in by_method.loc[method, "port"]
    assert "without clip_text and clip_tiles" in by_method.loc["hero", "port"]
    assert "without" not in by_method.loc["hero-clip", "port"]


STUBBORN = """
from dataclasses import dataclass

import torch

from prunebench import Keep, Pruner, Stage, register


@register()
@dataclass(frozen=True)
class Stubborn(Pruner):
    def SITE

    def plan(self, budget, available, layers):
        PLAN
        return super().plan(budget, available, layers)

    def prune(self, tokens, stage):
        return Keep(torch.arange(stage.keep))
"""


def stubborn(folder: Path, site: str, plan: str) -> str:
    """A method's file with that site and that beginning of a plan."""
    file = folder / "stubborn.py"
    text = STUBBORN.replace("SITE", f"site(self): {site}" if site else "unused(self): pass")
    file.write_text(text.replace("PLAN", plan or "pass"))
    return str(file)


def test_a_method_without_a_site_fails_alone(tmp_path: Path) -> None:
    file = stubborn(tmp_path, "raise RuntimeError('nowhere')", "")
    methods = f"methods=random,{file}"
    outcome = sweep(load(None, [*OPTIONS, methods, f"out={tmp_path / 'out'}"]))
    statuses = {name.split("__")[1]: status for name, status in outcome.statuses.items()}
    assert statuses["random"] == "ok"
    assert statuses["stubborn"] == "failed"


def test_a_plan_that_fails_for_the_exact_budget_fails_nobody_else(tmp_path: Path) -> None:
    """It is asked for the exact budget only to see whether the nearest was another one."""
    plan = "if not budget.nearest: raise RuntimeError('about is all I know')"
    methods = f"methods=random,{stubborn(tmp_path, '', plan)}"
    table = board(tmp_path / "out", methods, "budgets=0.5", "reach=nearest")
    assert set(table["status"]) == {"ok"}
    row = table.loc[("stubborn", "0.5")]
    assert "about is all I know" in row["reason"]
    assert row["better_than_random"] == ""
