"""A worker in a process that Ray started, perhaps on another machine.

Nothing heavy is imported with this file: what libraries read from the environment when they are
imported is set first.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any

from prunebench.border.interruption import raises_interruption

if TYPE_CHECKING:
    from prunebench.run.backend import ModelSetup
    from prunebench.run.work import Result, TaskSource, Unit, Worker

MOMENT = 0.2
"""Seconds for which results are kept back: of a miniature so many come that sending each would keep
the driver of many workers busy.
"""

STDERR = 2
"""The file that Ray keeps as a worker's log, whatever Python's own name for it is."""

SHARED = ("HF_", "HUGGINGFACE_", "TRANSFORMERS_", "TOKENIZERS_", "LMMS_", "PYTORCH_", "CUBLAS_")
"""Beginnings of variables of the environment that workers on other machines have as well."""

GRACE = 5.0
"""Seconds beyond the timeout after which a step that no alarm interrupts ends its process."""


@dataclass(frozen=True)
class Facts:
    """What a worker runs on: its machine as Ray names it, with an address for messages, its
    hardware, cores and threads, and the code and versions that decide what stands in a cell.
    """

    machine: str
    address: str
    hardware: str
    cores: int | None
    threads: int
    code: Mapping[str, Any]

    def provenance(self) -> dict[str, Any]:
        """What provenance says of where the model runs."""
        names = ("hardware", "cores", "threads")
        return {**{name: getattr(self, name) for name in names}, "executor": "ray"}


class RayWorker:
    """The one thing in its process: it keeps a model, and loads another when it is asked to."""

    def __init__(self, environment: Mapping[str, str], folder: str, cores: int) -> None:
        os.environ.update(environment)
        # before torch is imported: a worker has as many threads as it takes cores of its machine
        os.environ["OMP_NUM_THREADS"] = str(cores)
        if os.path.isdir(folder):
            # relative paths of a grid mean the same here
            os.chdir(folder)
        _let_methods_raise()
        self._worker: Worker | None = None

    def load(self, setup: ModelSetup, tasks: Sequence[TaskSource] = ()) -> Facts:
        """Load the model and the tasks, and say on what it runs; raises LoadError, Unsupported or
        TaskError.
        """
        import torch

        self._ready(setup, *tasks)
        return facts_here(setup.device, torch.get_num_threads())

    def work(self, unit: Unit) -> Iterator[list[Result]]:
        """What a unit comes to, as it is had; what comes within a moment is sent together."""
        from prunebench.run.work import work

        results: list[Result] = []
        last = monotonic()
        for result in work(unit, self._ready(unit.setup, unit.task)):
            results.append(result)
            if monotonic() - last >= MOMENT:
                yield results
                results, last = [], monotonic()
        if results:
            yield results

    def _ready(self, setup: ModelSetup, *tasks: TaskSource) -> Worker:
        """The worker with that model and those tasks, and the tasks that it has."""
        from prunebench.run.transformers_backend import TransformersBackend
        from prunebench.run.work import load_benchmark

        worker = self._worker
        benchmarks = {} if worker is None else dict(worker.benchmarks)
        backend = None if worker is None else worker.backend
        missing = [task for task in tasks if task not in benchmarks]
        if worker is not None and backend is not None and backend.setup == setup and not missing:
            return worker
        self._worker = worker = None
        if backend is None or backend.setup != setup:
            # the old one first: two may have no room beside each other
            backend = None
            gc.collect()
            backend = TransformersBackend.load(setup)
        for task in missing:
            benchmarks[task] = load_benchmark(task)
        # made last, for what a task's libraries do to the process is no method's doing
        self._worker = worker = _timed(backend, benchmarks)
        return worker


def facts_here(device: str, threads: int) -> Facts:
    """On what a process that Ray started runs."""
    import ray

    from prunebench.run import provenance

    return Facts(
        ray.get_runtime_context().get_node_id(),
        str(ray.util.get_node_ip_address()),  # type: ignore[no-untyped-call]
        provenance.hardware(device),
        os.cpu_count(),
        threads,
        code(),
    )


def code() -> dict[str, Any]:
    """What has to be the same in every process that works at a study."""
    from prunebench.run import provenance

    versions = provenance.versions()
    deciding = {name: versions.get(name) for name in provenance.DECIDING}
    return {"prunebench": provenance.sources()[:12], **deciding}


def difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """The first thing that is not the same in the code of two processes."""
    name = next(name for name in here if there.get(name) != here[name])
    return f"{name} {there.get(name)} there and {here[name]} here"


def shared_environment() -> dict[str, str]:
    """What workers have of this process's environment."""
    return {name: value for name, value in os.environ.items() if name.startswith(SHARED)}


def _timed(backend: Any, tasks: Mapping[TaskSource, Any]) -> Worker:
    """A worker whose process ends where a step hangs for good."""
    from prunebench.run.work import Worker

    class Timed(Worker):
        """An alarm interrupts Python alone; a library that does not return is ended from a thread
        that needs no Python.
        """

        def attempt(
            self, step: Callable[[], Any], timeout: float | None, label: str = "", module: str = ""
        ) -> Any:
            if timeout is None:
                return super().attempt(step, timeout, label, module)

            def bounded() -> Any:
                seconds = timeout + GRACE
                faulthandler.dump_traceback_later(seconds, exit=True, file=STDERR)
                try:
                    return step()
                finally:
                    faulthandler.cancel_dump_traceback_later()

            return super().attempt(bounded, timeout, label, module)

    return Timed(backend, tasks)


def _let_methods_raise() -> None:
    """A KeyboardInterrupt here is somebody's code raising it: control-C is the driver's affair."""

    @raises_interruption
    def ignore(_number: int, _frame: Any) -> None: ...

    signal.signal(signal.SIGINT, ignore)
