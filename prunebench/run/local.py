"""Local: units worked at one after the other, in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from prunebench.run.work import Result, Unit, Worker, work


class Executor(Protocol):
    """Whatever has units worked at, here or elsewhere."""

    def results(
        self, units: Iterable[Unit], left: Callable[[], int] = lambda: 0
    ) -> Iterator[Result]:
        """What the units come to, in any order. Each is asked for when it can be begun: what it
        describes may depend on the results of those before it.

        `left` says about how many answers the units will ask for that are not asked for yet.
        """


class Local:
    """The executor of one process and one model."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    def results(
        self, units: Iterable[Unit], left: Callable[[], int] = lambda: 0
    ) -> Iterator[Result]:
        """What the units come to, as it comes."""
        for unit in units:
            yield from work(unit, self.worker)
