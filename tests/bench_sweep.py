"""What sharing encodings saves: 8 methods at 3 budgets in one sweep, beside the same cells swept
one by one.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest

from prunebench import models
from prunebench.run import runner
from prunebench.run.grid import Cost, Grid
from prunebench.run.runner import sweep
from prunebench.run.work import load_benchmark

METHODS = ["none", "random", "uniform", "pool", "resize", "fastv", "divprune", "pyramiddrop"]
BUDGETS = ["0.5", "0.25", "0.1"]
SAMPLES = 8


def grid(methods: list[str], budgets: list[str], out: Path) -> Grid:
    return Grid(
        methods=methods,
        budgets=budgets,
        limit=SAMPLES,
        controls=False,
        cost=Cost(enabled=False),
        out=str(out),
    )


@pytest.fixture(scope="module", autouse=True)
def loaded_once() -> Any:
    """Model and task are read once for all sweeps: what is compared is the work on samples, not the
    start.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "load", cache(models.load))
        patch.setattr(runner, "load_benchmark", cache(load_benchmark))
        yield


def test_shared_against_one_by_one(
    benchmark: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The baseline ignores budgets and is one cell: 7 x 3 + 1 = 22."""
    cells = [("none", "1.0")] + [(method, budget) for method in METHODS[1:] for budget in BUDGETS]

    def one_by_one() -> list[str]:
        outcomes = [sweep(grid([m], [b], tmp_path / f"{m}-{b}")) for m, b in cells]
        return sorted(status for outcome in outcomes for status in outcome.statuses.values())

    def shared() -> list[str]:
        return sorted(sweep(grid(METHODS, BUDGETS, tmp_path / "shared")).statuses.values())

    sweep(grid(["none"], ["1.0"], tmp_path / "warm"))
    start = perf_counter()
    alone = one_by_one()
    seconds = perf_counter() - start
    benchmark.group = "sweep"
    together = benchmark.pedantic(shared, rounds=1)
    assert together == alone
    assert len(together) == len(cells)
    ratio = seconds / benchmark.stats.stats.total
    benchmark.extra_info |= {
        "cells": len(cells),
        "samples": SAMPLES,
        "one_by_one_s": seconds,
        "speedup": ratio,
    }
    line = (
        f"\n{len(cells)} cells x {SAMPLES} samples: one by one {seconds:.1f} s, "
        f"{ratio:.2f} times the shared sweep"
    )
    with capsys.disabled():
        print(line)
