"""Work: a unit is some samples in all cells that share their encoding, described as plain data.

Working at one is a function of that description and of a worker, which has the model: it gives
rows, or what went wrong, for every cell and sample. It writes nothing and remembers nothing, so
that it comes to the same a second time and in another process. Only whoever hands units out writes
and counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self, TypeVar

import torch

from prunebench.benchmarks import Benchmark, Request, load_task
from prunebench.border import images
from prunebench.border.guard import Guard, RandomState
from prunebench.border.interruption import interrupts
from prunebench.border.text import one_line
from prunebench.budget import Budget
from prunebench.registry import build
from prunebench.run import cost, quality
from prunebench.run.active import Standing
from prunebench.run.backend import Backend, Encoded, ModelSetup
from prunebench.run.fault import Fault, judged
from prunebench.run.limits import Overdue, limited
from prunebench.run.quality import Bound
from prunebench.run.question import Cost, Grid
from prunebench.run.samples import Samples
from prunebench.run.store import Row
from prunebench.run.variants import variants_of
from prunebench.study.record import BASELINE, Metric, SampleStatus

T = TypeVar("T")


@dataclass(frozen=True)
class TaskSource:
    """A task as it is loaded; two that are equal ask the same questions.

    `model_name` is the name by which the task may have a prompt of its own for the model.
    """

    name: str
    limit: int | None
    max_image_pixels: int | None
    model_name: str | None = None

    @classmethod
    def of(cls, grid: Grid, name: str, model_name: str | None) -> Self:
        """One of a grid's tasks, with its prompts for a model of that name."""
        most = images.MAX_PIXELS if grid.max_image_pixels is None else grid.max_image_pixels
        return cls(name, grid.limit, most, model_name)


@dataclass(frozen=True)
class CellPart:
    """What one cell wants of a unit.

    `method` is the method as a grid writes it, `fingerprint` a hash of all that decides its
    answers, and `digests` those of the method alone, which a worker that binds it compares with its
    own. `missing` are the samples that have no row yet, and `failures` says on how many samples in
    a row the method has just failed.
    """

    id: str
    method: Mapping[str, Any]
    budget: str | None
    seed: int
    fingerprint: str = ""
    digests: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    failures: int = 0


@dataclass(frozen=True)
class Unit:
    """A piece of work as plain data: every value can be pickled and is small.

    Samples are named by their ids; with `cost` it is the cost of its one cell that is measured, on
    the first samples of the task. `timeout` bounds the seconds that every step takes for a
    sample.
    """

    setup: ModelSetup
    task: TaskSource
    cells: tuple[CellPart, ...]
    samples: tuple[str, ...] = ()
    timeout: float | None = None
    cost: Cost | None = None


@dataclass(frozen=True)
class Result:
    """What a unit came to in one cell: rows, of cost with what they come to, or what went wrong and
    with which sample.

    Of what ends a cell in a group of samples, the first of them stands for all.
    """

    cell: str
    rows: tuple[Row, ...] = ()
    fault: Fault | None = None
    sample: str = ""
    metrics: tuple[Metric, ...] = ()


class OtherMethod(RuntimeError):
    """A method that is not the one that a sweep began with."""


def load_benchmark(task: TaskSource) -> Benchmark:
    """The task, loaded; raises TaskError."""
    return load_task(
        task.name,
        task.limit,
        max_image_pixels=task.max_image_pixels,
        model_name=task.model_name,
    )


class Worker:
    """A loaded model with the tasks that it is asked and the methods bound to it, in one process.

    Whatever a method does to the process or to the model is noticed after every step and undone.
    """

    def __init__(self, backend: Backend, benchmarks: Mapping[TaskSource, Benchmark]) -> None:
        self.backend = backend
        self.benchmarks = dict(benchmarks)
        # after the tasks: what their libraries do to the process is no method's doing
        self.guard = Guard(backend.module)
        self.plain = backend.ready(build(BASELINE))
        self._requests: dict[TaskSource, dict[str, Request]] = {}
        self._bound: dict[tuple[str, str], Bound] = {}
        self._inputs: dict[tuple[TaskSource, int], list[cost.CostInput]] = {}

    def requests(self, task: TaskSource) -> Mapping[str, Request]:
        """The questions of a task by their samples' ids."""
        if task not in self._requests:
            requests = self.benchmarks[task].requests
            self._requests[task] = {request.sample_id: request for request in requests}
        return self._requests[task]

    def bound(self, part: CellPart) -> Bound:
        """The cell's method on the model, bound once; raises whatever its code raises, and
        OtherMethod.
        """
        if not self.has(part):
            (variant,) = variants_of([part.method], controls=False)
            budget = None if part.budget is None else Budget.parse(part.budget)
            method = self.backend.ready(variant.pruner)
            if part.digests and part.digests != tuple(self.backend.digests(method)):
                # edited while the sweep runs, or another machine has another file
                raise OtherMethod(
                    f"method {variant.label} is another one here than where the sweep began: "
                    f"the code or the weights of {variant.name} differ"
                )
            bound = Bound(variant.pruner, method, budget, part.seed, variant.positions)
            self.keep(part.id, part.fingerprint, bound)
        return self._bound[part.id, part.fingerprint]

    def has(self, part: CellPart) -> bool:
        """Whether the cell's method is bound."""
        return (part.id, part.fingerprint) in self._bound

    def module(self, part: CellPart) -> str:
        """The module of a cell's method, empty for one that is not bound yet."""
        bound = self._bound.get((part.id, part.fingerprint))
        return "" if bound is None else type(bound.pruner).__module__

    def keep(self, cell: str, fingerprint: str, bound: Bound) -> None:
        """Take a method that is bound already, so that its file may change or go from now on."""
        self._bound[cell, fingerprint] = bound

    def cost_inputs(self, task: TaskSource, settings: Cost) -> list[cost.CostInput]:
        """The samples on which costs are measured, read once; raises MediaError."""
        place = task, settings.inputs
        if place not in self._inputs:
            self._inputs[place] = cost.inputs(self.backend, self.benchmarks[task], settings)
        return self._inputs[place]

    def attempt(
        self, step: Callable[[], T], timeout: float | None, label: str = "", module: str = ""
    ) -> T | Fault:
        """What the step gives, or what went wrong with it; no method's doing reaches another's.

        `label` and `module` are the name and the module of the method at work: what it changes of
        itself is its own affair.
        """
        random = RandomState()
        try:
            with limited(timeout):
                outcome: T | Fault = step()
        except Overdue as error:
            outcome = Fault("timeout", str(error), str(error))
        except BaseException as error:  # a method may raise anything, SystemExit included
            if interrupts(error):
                raise
            outcome = judged(error)
        # only here, for the error's traceback has held the tensors until now
        if isinstance(outcome, Fault) and outcome.status == "oom" and torch.cuda.is_available():
            torch.cuda.empty_cache()
        random.restore()
        # after a fault as well: a step that raises may have changed something before
        changes = self.guard.changes(module)
        if changes:
            self.guard.restore(self._fresh_module)
            names = one_line(", ".join(changes), 200)
            reason = f"{label or 'something'} changes {names}; a method leaves no trace"
            return Fault("failed", reason, reason, ends=True)
        return outcome

    def _fresh_module(self) -> Any:
        """The model anew, whose weights somebody has written to."""
        return self.backend.load(self.backend.setup).module


def work(unit: Unit, worker: Worker) -> Iterator[Result]:
    """Work at a unit: rows, or what went wrong, as they come.

    A cell that fails on a group of samples is asked them one by one, for the others of the group
    are not to blame, or half of them at a time where memory ran out; one that fails again and again
    is not asked further ones.
    """
    if unit.cost is not None:
        (part,) = unit.cells
        yield _cost(unit, unit.cost, part, worker)
        return
    requests = worker.requests(unit.task)
    group = [requests[sample] for sample in unit.samples]
    yield from _Asking(unit, worker).results(group, unit.cells)


def _cost(unit: Unit, settings: Cost, part: CellPart, worker: Worker) -> Result:
    """What one cell costs."""
    try:
        inputs = worker.cost_inputs(unit.task, settings)
        bound = worker.bound(part)
    except Exception as error:
        return Result(part.id, fault=judged(error))
    step = partial(cost.measure, worker.backend, bound, inputs, settings)
    outcome = worker.attempt(step, unit.timeout, part.method["label"], worker.module(part))
    if isinstance(outcome, Fault):
        return Result(part.id, fault=outcome)
    return Result(part.id, outcome.rows, metrics=outcome.metrics)


class _Asking:
    """One unit of samples at work: how each of its cells fares, and what it still misses."""

    def __init__(self, unit: Unit, worker: Worker) -> None:
        self.unit, self.worker = unit, worker
        self.backend = worker.backend
        self.benchmark = worker.benchmarks[unit.task]
        self.standings = {part.id: Standing(part.failures) for part in unit.cells}
        self.missing = {part.id: set(part.missing) for part in unit.cells}

    def results(self, requests: Sequence[Request], parts: Sequence[CellPart]) -> Iterator[Result]:
        """What becomes of a group in every cell."""
        count = len(requests)
        samples = self._attempt(partial(self.backend.read, self.benchmark, requests), count)
        alone = count == 1
        again: list[CellPart] = []
        large: list[CellPart] = []
        if isinstance(samples, Fault):
            again += parts
            if alone:
                yield from self._unreadable(requests[0], parts, samples)
        else:
            for part, outcome in self._outcomes(samples, parts):
                if not isinstance(outcome, Fault):
                    yield self._answered(part, outcome)
                elif alone or outcome.ends:
                    yield self._failed(part, requests[0], outcome)
                elif outcome.status == "oom":
                    large.append(part)
                else:
                    again.append(part)
        if alone:
            return
        middle = count // 2
        for half in (requests[:middle], requests[middle:]):
            waiting = [part for part in large if self._waits(part, *half)]
            if waiting:
                yield from self.results(half, waiting)
        for request in requests:
            for part in again:
                if request.sample_id not in part.missing:
                    # it has a row from before, so that those around it are not in a row
                    self.standings[part.id].answered()
            # asked anew for every sample: the one before may have ended a cell
            waiting = [part for part in again if self._waits(part, request)]
            if waiting:
                yield from self.results([request], waiting)

    def _outcomes(
        self, samples: Samples, parts: Sequence[CellPart]
    ) -> Iterator[tuple[CellPart, list[Row] | Fault]]:
        """The rows of every cell, or what went wrong with the group in it."""
        able: list[CellPart] = []
        # all are bound before the encoding, which reads there what each of the methods wants to see
        for part in parts:
            fault = self._unbound(part)
            if fault is None:
                able.append(part)
            else:
                yield part, fault
        for part, shared in self._encodings(samples, able):
            if isinstance(shared, Fault):
                yield part, shared
                continue
            cell = self.worker.bound(part)
            step = partial(quality.rows_of, self.backend, cell, self.worker.plain, shared)
            yield part, self._attempt(step, len(samples.requests), part)

    def _unbound(self, part: CellPart) -> Fault | None:
        """Bind the cell's method where nobody has yet; what goes wrong with it ends the cell."""
        if self.worker.has(part):
            return None
        outcome = self._attempt(partial(self.worker.bound, part), 1, part)
        return replace(outcome, ends=True) if isinstance(outcome, Fault) else None

    def _encodings(
        self, samples: Samples, parts: Sequence[CellPart]
    ) -> Iterator[tuple[CellPart, Encoded | Fault]]:
        """The samples' encoding for every cell: one for all, or one each where what a method reads
        there goes wrong.
        """
        encode = self.backend.encode
        count = len(samples.requests)
        methods = {part.id: self.worker.bound(part).method for part in parts}
        # nobody is named here: of several that read, it is not known yet which one failed
        shared = self._attempt(partial(encode, samples, list(methods.values())), count)
        if not isinstance(shared, Fault):
            for part in parts:
                yield part, shared
            return
        # tells a fault of the samples from one of what some method reads in their encoding
        bare = self._attempt(partial(encode, samples, []), count)
        for part in parts:
            if isinstance(bare, Fault):  # with nobody looking it goes wrong as well
                yield part, bare
            else:
                step = partial(encode, samples, [methods[part.id]])
                yield part, self._attempt(step, count, part)

    def _attempt(
        self, step: Callable[[], T], count: int, part: CellPart | None = None
    ) -> T | Fault:
        """A step that so many samples take together, with the cell's method to blame for what it
        leaves behind.
        """
        timeout = self.unit.timeout
        limit = None if timeout is None else count * timeout
        if part is None:
            return self.worker.attempt(step, limit)
        module = self.worker.module(part)
        return self.worker.attempt(step, limit, part.method["label"], module)

    def _answered(self, part: CellPart, rows: list[Row]) -> Result:
        self.standings[part.id].answered()
        self.missing[part.id] -= {row["sample_id"] for row in rows}
        return Result(part.id, tuple(rows))

    def _failed(self, part: CellPart, request: Request, fault: Fault) -> Result:
        self.standings[part.id].failed(fault)
        self.missing[part.id].discard(request.sample_id)
        return Result(part.id, fault=fault, sample=request.sample_id)

    def _waits(self, part: CellPart, *requests: Request) -> bool:
        """Whether a cell is still to be asked one of the samples."""
        missing = self.missing[part.id]
        is_missing = any(request.sample_id in missing for request in requests)
        return self.standings[part.id].going and is_missing

    def _unreadable(
        self, request: Request, parts: Sequence[CellPart], fault: Fault
    ) -> Iterator[Result]:
        """A sample that cannot be made an input for any method."""
        reason = fault.reason
        status: SampleStatus = fault.status
        # no method has been at work yet, so that it is none that failed
        if status == "failed":
            status = "unreadable"
            if not fault.media:
                sample = f"sample {request.sample_id} of {self.benchmark.name}"
                reason = f"{sample} cannot be processed: {reason}"
        for part in parts:
            # a row like any other: nobody is to blame, so it counts against no method
            yield self._answered(part, [quality.unanswered(request, status, one_line(reason))])
