"""Bars: how far a sweep or a training run has come, as a bar on a terminal, as lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from prunebench.border.text import one_line

FAILURES = ("failed", "oom")
"""Statuses of cells that count as failed."""


def make_bar(console: Console) -> Progress:
    """The bar of all commands; it is gone when its work is done, and never there off a terminal."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def print_line(console: Console, text: str) -> None:
    """A line of its own, above the bar where there is one."""
    console.print(one_line(text), highlight=False, markup=False, soft_wrap=True)


@contextmanager
def training_bar(steps: int) -> Iterator[Callable[[int, int, Mapping[str, float]], None]]:
    """A function of step, steps and figures that shows them: in the bar, or as a line each time."""
    console = Console(stderr=True)
    with make_bar(console) as bar:
        task = bar.add_task(f"step 0/{steps}", total=steps)

        def show(step: int, steps: int, figures: Mapping[str, float]) -> None:
            words = [f"{name} {value:.3f}" for name, value in figures.items()]
            line = " ".join([f"step {step}/{steps}", *words])
            bar.update(task, completed=step, description=line)
            if not console.is_terminal:
                print_line(console, line)

        yield show


class SweepBar:
    """A sweep's cells done, running and failed, and the time left; off a terminal a line a cell.

    `check` is called all the time; it raises where a signal came that a library swallowed.
    """

    def __init__(self, console: Console, check: Callable[[], None]) -> None:
        self.console = console
        self.check = check
        self.live = console.is_terminal
        self.bar = make_bar(console)
        self.task = self.bar.add_task("starting", total=None)
        self.cells = 0
        self.finished_cells = 0
        self.failed_cells = 0
        self.running_cells = 0
        self.tenths = 0  # of the work, those that were reported

    def __enter__(self) -> SweepBar:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def doing(self, what: str) -> None:
        """A step outside the cells begins: loading a model, a task."""
        self.check()
        self.bar.update(self.task, description=one_line(what))
        if not self.live:
            print_line(self.console, what)

    def begin(self, cells: int, done: int, units: int) -> None:
        """Of `cells` cells, `done` are there already, and `units` of work remain."""
        self.cells = cells
        self.finished_cells = done
        self.bar.reset(self.task, total=units)
        self._describe()
        if not self.live:
            work = f"{units} calls of generate to go"
            print_line(self.console, f"{cells} cells, {done} of them done before, {work}")

    def running(self, cells: int) -> None:
        """So many cells are at work now."""
        self.running_cells = cells
        self._describe()

    def advance(self, units: int) -> None:
        """Work was done, or need not be done any more."""
        self.check()
        self.bar.advance(self.task, units)
        task: Any = self.bar.tasks[0]
        tenths = int(10 * task.completed / task.total) if task.total else 0
        if not self.live and tenths > self.tenths:
            self.tenths = tenths
            work = f"{task.completed:.0f} of {task.total:.0f} calls"
            print_line(self.console, f"{10 * tenths} %: {work}")

    def finished(self, cell: str, status: str, reason: str) -> None:
        """A cell is written."""
        failed = status in FAILURES
        self.finished_cells += 1
        self.running_cells -= 1
        self.failed_cells += failed
        self._describe()
        if failed or not self.live:
            first_line = reason.strip().partition("\n")[0]
            place = f"[{self.finished_cells}/{self.cells}]"
            print_line(self.console, f"{place} {cell} {status} {first_line}".rstrip())

    def note(self, text: str) -> None:
        """Something that the user should know."""
        print_line(self.console, f"note: {text}")

    def _describe(self) -> None:
        counts = f"{self.running_cells} running, {self.failed_cells} failed"
        text = f"cells: {self.finished_cells} of {self.cells} done, {counts}"
        self.bar.update(self.task, description=text)
