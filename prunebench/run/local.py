"""Local: units worked at one after the other, in this process; and what every executor can do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch

from prunebench.run.backend import Backend, ModelSetup
from prunebench.run.progress import Watcher
from prunebench.run.question import Grid
from prunebench.run.transformers_backend import TransformersBackend
from prunebench.run.work import Result, Unit, Worker, work


class Executor(Protocol):
    """Whatever has units worked at, here or elsewhere, with one model after the other."""

    @property
    def has_gpu(self) -> bool:
        """Whether models can run on a GPU."""

    def load(self, setup: ModelSetup) -> Backend:
        """The model as whoever writes the study needs it, to bind methods and to name cells; raises
        LoadError or Unsupported.
        """

    def begin(self, worker: Worker) -> Mapping[str, Any]:
        """Work with the model of that worker, which is in this process, from now on. Nothing is
        started; gives what provenance will say otherwise than of this process, as far as that is
        known before.
        """

    def start(self) -> Mapping[str, Any]:
        """Make ready to work at units; gives what provenance says otherwise than of this process.
        Where there is nothing to work at it is not called.
        """

    def results(
        self, units: Iterable[Unit], left: Callable[[], int] = lambda: 0
    ) -> Iterator[Result]:
        """What the units come to, in any order. Each is asked for when it can be begun: what it
        describes may depend on the results of those before it.

        `left` says about how many answers the units will ask for that are not asked for yet.
        """

    def end(self) -> None:
        """Keep the model no longer."""


class Local:
    """The executor of one process and one model."""

    def __init__(self) -> None:
        self._worker: Worker | None = None

    @property
    def has_gpu(self) -> bool:
        """Whether torch sees a GPU."""
        return torch.cuda.is_available()

    def load(self, setup: ModelSetup) -> Backend:
        """The model that answers."""
        return TransformersBackend.load(setup)

    def begin(self, worker: Worker) -> Mapping[str, Any]:
        """Work with that worker from now on."""
        self._worker = worker
        return {}

    def start(self) -> Mapping[str, Any]:
        """This process is ready as it is."""
        return {}

    def results(
        self, units: Iterable[Unit], left: Callable[[], int] = lambda: 0
    ) -> Iterator[Result]:
        """What the units come to, as it comes."""
        assert self._worker is not None
        for unit in units:
            yield from work(unit, self._worker)

    def end(self) -> None:
        """Keep the model no longer."""
        self._worker = None


@contextmanager
def executor_of(grid: Grid, watch: Watcher) -> Iterator[Executor]:
    """The executor that a grid names, gone with all its processes behind the block; raises
    ExecutorError.
    """
    if grid.executor == "local":
        yield Local()
        return
    from prunebench.run.ray_executor import RayExecutor

    with RayExecutor.of(grid, watch) as executor:
        yield executor
