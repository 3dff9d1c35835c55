"""Bars: how far a sweep or a training run has come, as a bar on a terminal, as lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from prunebench.border.text import number_of, one_line

FAILED = ("failed", "oom")
"""Statuses of cells that went wrong."""


def make_bar(console: Console) -> Progress:
    """The bar of all commands; it is gone when its work is done, and never there off a terminal."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def print_line(console: Console, text: str) -> None:
    """A line of its own, above the bar where there is one."""
    # no markup: reasons and names may hold brackets, which rich would take for styles
    console.print(one_line(text), highlight=False, markup=False, soft_wrap=True)


@contextmanager
def training_bar(steps: int) -> Iterator[Callable[[int, int, Mapping[str, float]], None]]:
    """A function of step, steps and figures that shows them: in the bar, or as a line each time."""
    console = Console(stderr=True)
    with make_bar(console) as bar:
        task = bar.add_task("training", total=steps, rate="")

        def show(step: int, steps: int, figures: Mapping[str, float]) -> None:
            text = " ".join(f"{name} {value:.3f}" for name, value in figures.items())
            bar.update(task, completed=step, description=text)
            if not console.is_terminal:
                print_line(console, f"step {step}/{steps} {text}")

        yield show


class SweepBar:
    """On a terminal a line that says what is going on, how many answers there are and how fast they
    come; elsewhere a line a cell, and one a tenth of the way.

    Cells that share encodings are finished together, at the end: it is answers that are counted.
    `check` is called at every step, and may raise to end the sweep.
    """

    def __init__(self, console: Console, check: Callable[[], None] = lambda: None) -> None:
        self.console = console
        self.check = check
        self.live = console.is_terminal
        self.bar = make_bar(console)
        self.task = self.bar.add_task("starting", total=None, rate="")
        self.cells = 0
        self.cells_finished = 0
        self.cells_failed = 0
        self.tenth = 0  # of the answers, those that were reported

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def doing(self, what: str) -> None:
        """Show a step outside the cells."""
        self.check()
        self.bar.update(self.task, description=one_line(what))
        if not self.live:
            print_line(self.console, what)

    def begin(self, cells: int, finished: int, answers: int) -> None:
        """Start to count answers."""
        self.cells, self.cells_finished = cells, finished
        # its clock, too: loading the model says nothing of how fast answers come
        self.bar.reset(self.task, total=answers, rate="")
        if not self.live:
            work = f"{number_of(answers, 'call')} of generate to go"
            before = f"{finished} of them done before"
            print_line(self.console, f"{number_of(cells, 'cell')}, {before}, {work}")

    def working(self, what: str) -> None:
        """Show what the next answers are about, and which cells failed so far."""
        self.check()
        description = one_line(what)
        if self.cells_failed:
            noun = "cell" if self.cells_failed == 1 else "cells"
            description += f", {self.cells_failed} {noun} failed"
        self.bar.update(self.task, description=description)

    def advance(self, answers: int) -> None:
        """Count answers, and say how fast they come."""
        self.check()
        self.bar.advance(self.task, answers)
        task: Any = self.bar.tasks[0]
        if task.speed:
            self.bar.update(self.task, rate=f"{task.speed:.1f} answers/s")
        tenth = int(10 * task.completed / task.total) if task.total else 0
        if not self.live and tenth > self.tenth:
            self.tenth = tenth
            print_line(
                self.console, f"{10 * tenth} %: {task.completed:.0f} of {task.total:.0f} calls"
            )

    def finished(self, cell: str, status: str, reason: str) -> None:
        """Say what became of a cell; on a terminal, where it failed."""
        self.cells_finished += 1
        failed = status in FAILED
        self.cells_failed += failed
        first_line = reason.strip().partition("\n")[0]
        if failed or not self.live:
            place = f"[{self.cells_finished}/{self.cells}]"
            print_line(self.console, f"{place} {cell} {status} {first_line}".rstrip())

    def note(self, text: str) -> None:
        """Say something that the user should know."""
        print_line(self.console, f"note: {text}")
