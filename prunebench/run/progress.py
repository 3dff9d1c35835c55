"""Progress: what a sweep tells whoever watches it, and the bar that the command line draws of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, Self

from prunebench.border.text import one_line

if TYPE_CHECKING:
    from rich.console import Console

FAILED = ("failed", "oom")
"""Statuses of cells that went wrong."""


class Watcher(Protocol):
    """Told of every step. A unit of progress is one answer: one sample in one cell, or one timed
    call.
    """

    def doing(self, what: str) -> None:
        """A step outside the cells begins: loading a model, a task."""

    def begin(self, cells: int, finished: int, answers: int) -> None:
        """Of `cells` cells, `finished` are there already, and `answers` remain to be had."""

    def working(self, what: str) -> None:
        """What the next answers are about: a sample in so many cells, a method that is timed."""

    def advance(self, answers: int) -> None:
        """Answers came in, or need not be had any more."""

    def finished(self, cell: str, status: str, reason: str) -> None:
        """A cell is written."""

    def note(self, text: str) -> None:
        """Something that the user should know."""


class Silent:
    """Watches and says nothing."""

    def doing(self, what: str) -> None: ...

    def begin(self, cells: int, finished: int, answers: int) -> None: ...

    def working(self, what: str) -> None: ...

    def advance(self, answers: int) -> None: ...

    def finished(self, cell: str, status: str, reason: str) -> None: ...

    def note(self, text: str) -> None: ...


class Bar:
    """On a terminal a line that says what is going on, how many answers there are and how fast they
    come; elsewhere a line a cell, and one a tenth of the way.

    Cells that share encodings are finished together, at the end: it is answers that are counted.
    `check` is called at every step, and may raise to end the sweep.
    """

    def __init__(self, console: Console, check: Callable[[], None] = lambda: None) -> None:
        from rich import progress

        self.console = console
        self.check = check
        self.live: bool = console.is_terminal
        self.bar = progress.Progress(
            progress.SpinnerColumn(),
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[rate]}", markup=False),
            progress.TimeElapsedColumn(),
            progress.TextColumn("left"),
            progress.TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not self.live,
        )
        self.task = self.bar.add_task("starting", total=None, rate="")
        self.cells = self.cells_finished = self.cells_failed = self.tenth = 0

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
            self._say(what)

    def begin(self, cells: int, finished: int, answers: int) -> None:
        """Start to count answers."""
        self.cells, self.cells_finished = cells, finished
        self.bar.reset(self.task, total=answers, rate="")
        if not self.live:
            self._say(
                f"{cells} cells, {finished} of them done before, {answers} calls of generate to go"
            )

    def working(self, what: str) -> None:
        """Show what the next answers are about, and which cells failed so far."""
        self.check()
        failed = f" ({self.cells_failed} cells failed)" if self.cells_failed else ""
        self.bar.update(self.task, description=one_line(what) + failed)

    def advance(self, answers: int) -> None:
        """Count answers, and say how fast they come."""
        self.check()
        self.bar.advance(self.task, answers)
        task = self.bar.tasks[0]
        if task.speed:
            self.bar.update(self.task, rate=f"{task.speed:.2g} answers/s")
        tenth = int(10 * task.completed / task.total) if task.total else 0
        if not self.live and tenth > self.tenth:
            self.tenth = tenth
            self._say(f"{10 * tenth} %: {task.completed:.0f} of {task.total:.0f} calls")

    def finished(self, cell: str, status: str, reason: str) -> None:
        """Say what became of a cell; on a terminal, where it failed."""
        self.cells_finished += 1
        failed = status in FAILED
        self.cells_failed += failed
        first_line = reason.strip().partition("\n")[0]
        if failed or not self.live:
            place = f"[{self.cells_finished}/{self.cells}]"
            self._say(f"{place} {cell} {status} {first_line}".rstrip())

    def note(self, text: str) -> None:
        """Say something that the user should know."""
        self._say(f"note: {text}")

    def _say(self, line: str) -> None:
        self.console.print(one_line(line), highlight=False, markup=False, soft_wrap=True)
