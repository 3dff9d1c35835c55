"""What sharing encodings saves: 8 methods at 3 budgets in one sweep, beside the same cells swept
one by one. And what a sweep costs beside a bare loop over the same backend.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import pytest

from prunebench import models
from prunebench.border.images import MAX_PIXELS
from prunebench.budget import Budget
from prunebench.registry import build
from prunebench.run import runner
from prunebench.run.backend import ModelSetup
from prunebench.run.grid import Cost, Grid
from prunebench.run.quality import Bound
from prunebench.run.runner import sweep
from prunebench.run.transformers_backend import TransformersBackend
from prunebench.run.work import TaskSource, load_benchmark

METHODS = ["none", "random", "uniform", "pool", "resize", "fastv", "divprune", "pyramiddrop"]
BUDGETS = ["0.5", "0.25", "0.1"]
SAMPLES = 8

LOOP_METHODS = ["none", "random", "fastv", "divprune"]
LOOP_BUDGETS = ["0.5", "0.4"]
LOOP_SAMPLES = 48
PAIRS = 5


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


def test_sweep_against_a_bare_loop(
    benchmark: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a sweep adds to the backend's own reading, encoding and answering (target: at most
    1.02), as CPU time in pairs of alternating order. A sweep binds, guards, stores and scores.
    """
    backend = TransformersBackend.load(ModelSetup("tiny-qwen2.5-vl"))
    questions = load_benchmark(TaskSource("scenes", LOOP_SAMPLES, MAX_PIXELS, None))
    requests = questions.requests
    starts = range(0, len(requests), backend.batch)
    groups = [requests[start : start + backend.batch] for start in starts]
    pruners = {method: build(method) for method in LOOP_METHODS}
    cells = [Bound(pruners["none"], backend.ready(pruners["none"]), None, 0)]
    for method in LOOP_METHODS[1:]:
        for budget in LOOP_BUDGETS:
            ready = backend.ready(pruners[method])
            cells.append(Bound(pruners[method], ready, Budget.parse(budget), 0))

    def bare() -> list[str]:
        texts: list[str] = []
        for group in groups:
            samples = backend.read(questions, group)
            encoded = backend.encode(samples, [cell.method for cell in cells])
            for cell in cells:
                conditions = cell.conditions(group, count_flops=True)
                texts += backend.answer(encoded, cell.method, conditions).texts
        return texts

    def swept(number: int) -> None:
        one = replace(grid(LOOP_METHODS, LOOP_BUDGETS, tmp_path / str(number)), limit=LOOP_SAMPLES)
        assert set(sweep(one).statuses.values()) == {"ok"}

    bare()
    swept(-1)
    ratios = []
    for pair in range(PAIRS):
        works: list[Callable[[], object]] = [bare, partial(swept, pair)]
        seconds = {}
        for work in works if pair % 2 else reversed(works):
            start = process_time()
            work()
            seconds[work] = process_time() - start
        ratios.append(seconds[works[1]] / seconds[works[0]])
    benchmark.group = "sweep"
    benchmark.pedantic(bare, rounds=1)
    benchmark.extra_info |= {"ratio": median(ratios), "pairs": PAIRS, "samples": LOOP_SAMPLES}
    with capsys.disabled():
        print(
            f"\n{len(cells)} cells x {LOOP_SAMPLES} samples: {median(ratios):.3f} of a bare loop, "
            f"{min(ratios):.3f} to {max(ratios):.3f}, {PAIRS} pairs"
        )
