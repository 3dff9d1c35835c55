"""What more workers bring: a sweep by one and by two of Ray's here, and by up to 64 in simulation,
with the seconds that units and the driver take on this machine.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import psutil
import pytest
from simulated_cluster import Cluster, Grid, Seconds

from prunebench.run import runner
from prunebench.run.grid import load
from prunebench.run.local import Local
from prunebench.run.progress import Silent
from prunebench.run.work import Result, Unit, work

METHODS = "methods=none,random,uniform,pool,resize,fastv,divprune,pyramiddrop"
BUDGETS = "budgets=0.5,0.25,0.1"
GRIDS = {
    "20 tasks of 500 cells, 8 samples": (20, 500, 8),
    "1 task of 10000 cells, 4 samples": (1, 10_000, 4),
    "100 tasks of 100 cells, 20 samples": (100, 100, 20),
}
FULL_SIZE = 12
"""How much longer a model of full size takes on a GPU than a miniature on a core, for an answer of
a word.
"""


def options(out: Path, *more: str) -> list[str]:
    return [METHODS, BUDGETS, "controls=false", "cost=false", f"out={out}", *more]


class Clocked(Local):
    """Works at units in this process, and takes the time of each part of it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoding: list[float] = []
        self.answers: list[float] = []
        self.driver: list[float] = []

    def results(
        self, units: Iterable[Unit], left: Callable[[], int] = lambda: 0
    ) -> Iterator[Result]:
        """The results, the time between two of which is the worker's or the driver's."""
        assert self._worker is not None
        for unit in units:
            start = perf_counter()
            list(work(Unit(unit.setup, unit.task, (), unit.samples), self._worker))
            encoding = perf_counter() - start
            self.encoding.append(encoding)
            start = perf_counter()
            for number, result in enumerate(work(unit, self._worker)):
                seconds = perf_counter() - start
                self.answers.append(seconds if number else max(0.0, seconds - encoding))
                start = perf_counter()
                yield result
                self.driver.append(perf_counter() - start)
                start = perf_counter()


def measured(out: Path, monkeypatch: pytest.MonkeyPatch) -> Seconds:
    """What things take here: the last result of all ends every cell, the others are only stored."""
    clocked = Clocked()

    @contextmanager
    def executor_of(*_: Any) -> Iterator[Clocked]:
        yield clocked

    monkeypatch.setattr(runner, "executor_of", executor_of)
    outcome = runner.sweep(load(None, options(out, "limit=8")))
    monkeypatch.undo()
    *stored, last = clocked.driver
    return Seconds(
        # the first unit finds caches empty
        clocked.encoding[1:],
        clocked.answers[len(outcome.statuses) :],
        result=median(stored),
        cell=last / len(outcome.statuses),
    )


def test_by_simulation(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    benchmark: Any,
) -> None:
    seconds = benchmark.pedantic(measured, (tmp_path / "study", monkeypatch), rounds=1)
    full = Seconds(
        [FULL_SIZE * one for one in seconds.encoding],
        [FULL_SIZE * one for one in seconds.answers],
        result=seconds.result,
        cell=seconds.cell,
    )
    lines = [
        f"encoding {1000 * median(seconds.encoding):.1f} ms, an answer "
        f"{1000 * median(seconds.answers):.1f} ms, storing it {1000 * seconds.result:.2f} ms, "
        f"finishing a cell {1000 * seconds.cell:.1f} ms"
    ]
    for size, times in (("miniature", seconds), (f"{FULL_SIZE} times as long", full)):
        for name, grid in GRIDS.items():
            ratios = []
            for workers in (1, 2, 8, 64):
                ratios.append(f"{workers}: {Cluster(workers, times).run(Grid(*grid)).ratio:.3f}")
            lines.append(f"{size}, {name}: makespan / ideal by workers {', '.join(ratios)}")
    with capsys.disabled():
        print("\n" + "\n".join(lines))


class Clock(Silent):
    """When the first answers are to be had, and when the last one is."""

    def __init__(self) -> None:
        self.began = self.ended = 0.0
        self.answers = 0

    def begin(self, cells: int, finished: int, answers: int) -> None:
        self.began = perf_counter()

    def advance(self, answers: int) -> None:
        if answers:
            self.ended = perf_counter()
            self.answers += answers


@pytest.mark.parametrize("rounds", [1])
def test_by_workers_here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], benchmark: Any, rounds: int
) -> None:
    """Wall seconds from when workers have their model, and how busy the machine was meanwhile."""
    samples = os.environ.get("SAMPLES", "30")
    lines = []
    for workers in (1, 2):
        clock = Clock()
        more = [f"limit={samples}", "executor=ray", f"workers={workers}"]
        psutil.cpu_percent()
        runner.sweep(load(None, options(tmp_path / str(workers), *more)), clock)
        seconds = clock.ended - clock.began
        lines.append(
            f"{workers} workers: {clock.answers} answers in {seconds:.1f} s, "
            f"{clock.answers / seconds:.1f} a second; the machine's cores "
            f"{psutil.cpu_percent():.0f} % busy"
        )
    benchmark.pedantic(lambda: None, rounds=rounds)
    with capsys.disabled():
        print("\n" + "\n".join(lines))
