"""Progress: what a sweep tells whoever watches it; the command line draws it, a library user may
ignore it.
"""

from __future__ import annotations

from typing import Protocol


class Watcher(Protocol):
    """Told of every step. A unit of work is one call of `generate`."""

    def doing(self, what: str) -> None:
        """A step outside the cells begins: loading a model, a task."""

    def begin(self, cells: int, done: int, units: int) -> None:
        """Of `cells` cells, `done` are there already, and `units` of work remain."""

    def running(self, cells: int) -> None:
        """So many cells are at work now."""

    def advance(self, units: int) -> None:
        """Work was done, or need not be done any more."""

    def finished(self, cell: str, status: str, reason: str) -> None:
        """A cell is written."""

    def note(self, text: str) -> None:
        """Something that the user should know."""


class Silent:
    """Watches and says nothing."""

    def doing(self, what: str) -> None: ...

    def begin(self, cells: int, done: int, units: int) -> None: ...

    def running(self, cells: int) -> None: ...

    def advance(self, units: int) -> None: ...

    def finished(self, cell: str, status: str, reason: str) -> None: ...

    def note(self, text: str) -> None: ...
