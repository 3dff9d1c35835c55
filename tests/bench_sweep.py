"""What sharing encodings saves: 8 methods at 3 budgets in one sweep, beside the same cells swept
one by one. And what a sweep costs beside a bare loop over the same backend.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from itertools import count, product
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
LOOP_CELLS = 1 + (len(LOOP_METHODS) - 1) * len(LOOP_BUDGETS)
LOOP_SAMPLES = (16, 64)
PAIRS = 5

load_once = cache(load_benchmark)


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
        patch.setattr(runner, "load_benchmark", load_once)
        # the model stays for the next sweep, so that nothing could be collected
        patch.setattr(runner, "collect", lambda: 0)
        yield


def test_shared_against_one_by_one(
    benchmark: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The baseline ignores budgets and is one cell: 7 x 3 + 1 = 22."""
    cells = [("none", "1.0"), *product(METHODS[1:], BUDGETS)]

    def one_by_one() -> list[str]:
        statuses: list[str] = []
        for method, budget in cells:
            out = tmp_path / f"{method}-{budget}"
            statuses += sweep(grid([method], [budget], out)).statuses.values()
        return sorted(statuses)

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


def bare_loop(backend: TransformersBackend, samples: int) -> None:
    """Methods bound to the model, and the backend's own reading, encoding and answering."""
    questions = load_once(TaskSource("scenes", samples, MAX_PIXELS, None))
    requests = questions.requests
    cells = []
    for method in LOOP_METHODS:
        pruner = build(method)
        for budget in LOOP_BUDGETS if method != "none" else [None]:
            amount = None if budget is None else Budget.parse(budget)
            cells.append(Bound(pruner, backend.ready(pruner), amount, 0))
    for start in range(0, len(requests), backend.batch):
        group = requests[start : start + backend.batch]
        encoded = backend.encode(backend.read(questions, group), [cell.method for cell in cells])
        for cell in cells:
            backend.answer(encoded, cell.method, cell.conditions(group, count_flops=True))


def seconds(work: Callable[[], object]) -> float:
    start = process_time()
    work()
    return process_time() - start


def test_sweep_against_a_bare_loop(
    benchmark: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a sweep adds to the backend's own reading, encoding and answering (target: at most 1.02
    a sample), as CPU time in pairs of alternating order. A sweep guards, scores and stores.

    The difference of two lengths is what samples cost; what a sweep takes once, such as looking
    models up, binding, and writing cells, is given in seconds.
    """
    backend = TransformersBackend.load(ModelSetup("tiny-qwen2.5-vl"))
    numbers = count()

    def swept(samples: int) -> None:
        out = tmp_path / str(next(numbers))
        one = replace(grid(LOOP_METHODS, LOOP_BUDGETS, out), limit=samples)
        assert set(sweep(one).statuses.values()) == {"ok"}

    works: dict[str, Callable[[int], None]] = {
        "bare": partial(bare_loop, backend),
        "swept": swept,
    }
    for work in works.values():
        work(LOOP_SAMPLES[0])
    ratios, wholes, fixed = [], [], []
    for pair in range(PAIRS):
        spent: dict[str, list[float]] = {"bare": [], "swept": []}
        for samples in LOOP_SAMPLES:
            for name in sorted(works, reverse=pair % 2 == 0):
                spent[name].append(seconds(partial(works[name], samples)))
        (short_bare, long_bare), (short_swept, long_swept) = spent["bare"], spent["swept"]
        ratio = (long_swept - short_swept) / (long_bare - short_bare)
        ratios.append(ratio)
        wholes.append(long_swept / long_bare)
        fixed.append(short_swept - ratio * short_bare)
    benchmark.group = "sweep"
    benchmark.pedantic(partial(bare_loop, backend, LOOP_SAMPLES[0]), rounds=1)
    benchmark.extra_info |= {
        "ratio": median(ratios),
        "ratio_whole": median(wholes),
        "fixed_s": median(fixed),
        "pairs": PAIRS,
        "samples": LOOP_SAMPLES,
    }
    fewer, more = LOOP_SAMPLES
    with capsys.disabled():
        print(
            f"\n{LOOP_CELLS} cells: {median(ratios):.3f} of a bare loop a sample "
            f"({min(ratios):.3f} to {max(ratios):.3f}), {median(fixed):.2f} s besides; "
            f"{median(wholes):.3f} over all {more} samples; from {fewer} and {more}, {PAIRS} pairs"
        )
