"""Progress: what a sweep tells whoever watches it; the command line draws it, a library user may
ignore it.
"""

from __future__ import annotations

from typing import Protocol


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
