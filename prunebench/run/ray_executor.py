"""Ray: units worked at by processes that Ray starts, on this machine or on a cluster.

Who gets what is the schedule's to say; here are the processes. None is started before there is
work for it. A worker that dies or hangs is replaced, and what it had is given out again. Nothing is
written here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import torch

from prunebench.border.text import message, one_line
from prunebench.models import LoadError, Unsupported
from prunebench.run import ray_cluster
from prunebench.run.backend import Backend, ModelSetup
from prunebench.run.fault import Fault
from prunebench.run.progress import Watcher
from prunebench.run.question import Grid
from prunebench.run.ray_cluster import ExecutorError, Need
from prunebench.run.ray_worker import (
    GRACE,
    Facts,
    RayWorker,
    code,
    difference,
    facts_here,
    shared_environment,
)
from prunebench.run.schedule import Piece, Schedule
from prunebench.run.work import Result, TaskSource, Unit, Worker
from prunebench.run.writer_backend import WriterBackend

TICK = 0.5
"""Seconds after which a wait is over although nothing happened: a person may have stopped us."""

STARTS = 3
"""Times in a row that a worker may fail to start before it is given up."""

SLOW_START = 60.0
"""Seconds after which it is said that workers are waited for."""

NO_MEMORY = "running low on memory"
"""Words by which Ray says that it ended a worker because its machine had no memory left."""


@dataclass(eq=False)
class Member:
    """A worker's process; `loading` is what tells that it is ready, None once it is.

    `streams` are the results of its pieces, the one at work first, and `news` is when it was last
    heard of. `failures` counts the times in a row that it did not start.
    """

    name: str
    actor: Any
    loading: Any
    news: float
    facts: Facts | None = None
    streams: list[Any] = field(default_factory=list)
    failures: int = 0


class RayExecutor:
    """Workers of Ray, each with a model of its own."""

    def __init__(self, grid: Grid, watch: Watcher, is_own: bool, undo: ExitStack) -> None:
        self.grid = grid
        self.watch = watch
        self.members: list[Member] = []
        self._is_own = is_own
        """Whether the cluster is one of this machine's own, started and ended with the sweep."""
        self._cores = grid.threads or 1
        """Cores that a worker takes of its machine, each with a thread."""
        self._undo = undo
        self._ray: Any = None
        self._need: Need | None = None
        self._setup: ModelSetup | None = None
        self._backend: Backend | None = None
        self._tasks: tuple[TaskSource, ...] = ()
        self._number = 0
        self._cause: Exception = ExecutorError("no worker can be started")

    @classmethod
    @contextmanager
    def of(cls, grid: Grid, watch: Watcher) -> Iterator[RayExecutor]:
        """The executor of a grid; behind the block its processes are gone. Raises ExecutorError
        where there is no Ray, or no cluster at the grid's address.
        """
        package = ray_cluster.ray_package()
        is_own = grid.ray_address is None and not package.is_initialized()
        with ExitStack() as undo:
            executor = cls(grid, watch, is_own, undo)
            if not is_own:
                # that it is not there is said before a model is loaded
                executor._connect()
            yield executor

    # ---- what an executor can do -----------------------------------------------------------------

    @property
    def ray(self) -> Any:
        """Ray, connected when it is first needed; raises ExecutorError."""
        if self._ray is None:
            self._connect()
        return self._ray

    @property
    def has_gpu(self) -> bool:
        """Whether a machine of the cluster has a GPU."""
        if self._is_own:
            return torch.cuda.is_available()
        return any(one.get("GPU", 0) > 0 for one in ray_cluster.machines(self.ray))

    def load(self, setup: ModelSetup) -> Backend:
        """The model on the CPU of this process."""
        return WriterBackend.load(setup)

    def begin(self, worker: Worker) -> Mapping[str, Any]:
        """Note what workers are to load; gives what they will run on, where that decides which
        cells are done.
        """
        self._setup, self._tasks = worker.backend.setup, tuple(worker.benchmarks)
        self._backend = worker.backend
        if self._is_own:
            # on this machine
            return {"threads": self._cores, "executor": "ray"}
        if not self.grid.cost.enabled:
            return {}
        self.watch.doing("asking Ray's cluster what it runs on")
        facts = ray_cluster.answer_of(self.ray, facts_here, self._setup.device, self._cores)
        return {} if facts is None else facts.provenance()

    def start(self) -> Mapping[str, Any]:
        """Have every worker load the model, and wait for the first; raises ExecutorError where none
        is ready, or where one runs other code than this process.
        """
        assert self._setup is not None
        assert self._backend is not None
        device, size = self._setup.device, _bytes(self._backend)
        need = ray_cluster.need_of(self.ray, self.grid, device, size)
        count = self._count(need)
        if self._need is not None and self._need.covers(need) and len(self.members) == count:
            for member in self.members:
                member.loading = member.actor.load.remote(self._setup, self._tasks)
        else:
            self._dismiss()
            self._need = need
            self.members = [self._member() for _ in range(count)]
        self.watch.doing(f"loading {self._setup.model} in {_workers(count)}")
        while not any(member.facts and member.loading is None for member in self.members):
            self._meet(TICK)
            # told at each step, so that whoever wants to stop can
            self.watch.advance(0)
        return self._facts()

    def results(
        self, units: Iterable[Unit], left: Callable[[], int] = lambda: 0
    ) -> Iterator[Result]:
        """What the units come to, as it comes, from all workers."""
        schedule = Schedule(units, left)
        joined: set[str] = set()
        while True:
            for member in self.members:
                if member.loading is None and member.name not in joined:
                    joined.add(member.name)
                    assert member.facts is not None
                    schedule.joins(member.name, member.facts.machine)
            starting = any(member.loading is not None for member in self.members)
            for name, piece in schedule.handouts(quiet=not starting):
                self._send(self._named(name), piece)
            if schedule.over:
                return
            yield from self._news(schedule)
            self.watch.advance(0)

    def end(self) -> None:
        """Workers keep a model until they load another; this process keeps none."""
        self._backend = None

    # ---- processes -------------------------------------------------------------------------------

    def _connect(self) -> None:
        """Start Ray, or find its cluster."""
        address = self.grid.ray_address
        self.watch.doing("starting Ray" if address is None else "looking for Ray's cluster")
        cores = (self.grid.workers or 1) * self._cores
        self._ray = self._undo.enter_context(ray_cluster.connected(address, cores))
        self._undo.callback(self._dismiss)

    def _member(self, failures: int = 0) -> Member:
        """A new process, that loads the model."""
        assert self._need is not None
        self._number += 1
        actor_class = self.ray.remote(RayWorker).options(
            max_restarts=0, max_task_retries=0, **self._need.options()
        )
        actor = actor_class.remote(shared_environment(), os.getcwd(), self._cores)
        loading = actor.load.remote(self._setup, self._tasks)
        return Member(f"worker {self._number}", actor, loading, monotonic(), failures=failures)

    def _meet(self, timeout: float) -> None:
        """Hear of those that start up."""
        starting = {member.loading: member for member in self.members if member.loading is not None}
        ready, _ = self.ray.wait(list(starting), num_returns=1, timeout=timeout)
        for reference in ready:
            self._met(starting[reference])
        now = monotonic()
        slow = [one for one in starting.values() if now - one.news > SLOW_START]
        if slow and len(starting) == len(self.members):
            for member in slow:
                member.news = now
            self.watch.note(f"waiting for {_workers(len(slow))} to start, each takes {self._need}")

    def _met(self, member: Member) -> None:
        """One has started up, or failed to."""
        errors = self.ray.exceptions
        try:
            facts: Facts = self.ray.get(member.loading)
        except (errors.RayActorError, errors.RayTaskError, errors.RaySystemError) as error:
            self._cause = getattr(error, "cause", None) or error
            self._replace(member, failures=member.failures + 1)
            return
        here = code()
        if facts.code != here:
            raise ExecutorError(
                f"the worker on {facts.address} runs other code than this process: "
                f"{difference(facts.code, here)}; install the same on every machine"
            )
        first = next((one.facts for one in self.members if one.facts is not None), facts)
        if facts.hardware != first.hardware:
            # a cell names one kind: its times depend on it, and at half precision its answers
            self.members.remove(member)
            self.ray.kill(member.actor)
            self.watch.note(
                f"the worker on {facts.address} is not used: it has {facts.hardware}, "
                f"and the first one {first.hardware}"
            )
            return
        member.facts, member.loading = facts, None
        member.news = monotonic()

    def _replace(self, member: Member, failures: int = 0) -> None:
        """Another process in the place of one that is gone."""
        self.members.remove(member)
        with suppress(Exception):  # it is gone already
            self.ray.kill(member.actor)
        if failures < STARTS:
            self.members.append(self._member(failures))
        elif not self.members:
            raise self._failure()
        else:
            left = f"{_workers(len(self.members))} left"
            reason = one_line(message(self._cause), 200)
            self.watch.note(f"a worker did not start, {STARTS} times; {left}: {reason}")

    def _failure(self) -> Exception:
        """Why there is no worker."""
        # of a model that does not load, whoever sweeps several makes failed cells
        if isinstance(self._cause, LoadError | Unsupported):
            return self._cause
        return ExecutorError(f"no worker can be started: {one_line(message(self._cause), 200)}")

    def _dismiss(self) -> None:
        for member in self.members:
            with suppress(Exception):  # on the way out, whatever Ray says
                self.ray.kill(member.actor)
        self.members = []

    def _named(self, name: str) -> Member:
        return next(member for member in self.members if member.name == name)

    # ---- work ------------------------------------------------------------------------------------

    def _send(self, member: Member, piece: Piece) -> None:
        """Put a piece behind those that a worker has."""
        if not member.streams:
            member.news = monotonic()
        stream = member.actor.work.options(num_returns="streaming").remote(piece.unit)
        member.streams.append(stream)

    def _news(self, schedule: Schedule) -> Iterator[Result]:
        """What happens next."""
        # a worker is at its first piece; of the others there is nothing to hear
        streams = {member.streams[0]: member for member in self.members if member.streams}
        starting = {member.loading: member for member in self.members if member.loading is not None}
        waiting = [*streams, *starting]
        ready, _ = self.ray.wait(waiting, num_returns=1, timeout=TICK)
        if ready:
            ready, _ = self.ray.wait(waiting, num_returns=len(waiting), timeout=0)
        for reference in ready:
            if reference in starting:
                self._met(starting[reference])
            else:
                yield from self._heard(schedule, streams[reference])
        for member in list(self.members):
            if _hangs(schedule, member):
                yield from self._lost(schedule, member, TimeoutError())

    def _heard(self, schedule: Schedule, member: Member) -> Iterator[Result]:
        """Some results, the end of a piece, or the end of the worker."""
        errors = self.ray.exceptions
        try:
            results: list[Result] = self.ray.get(next(member.streams[0]))
        except StopIteration:
            schedule.done(member.name)
            member.streams.pop(0)
        except errors.RayTaskError as error:
            cause = error.cause or error
            if not _is_ours(cause):
                raise cause from None
            # it could not load the model or the task, for which no sample is to blame
            self._cause = cause
            schedule.leaves(member.name)
            self._replace(member, failures=member.failures + 1)
        except errors.RayError as error:
            yield from self._lost(schedule, member, error)
            return
        else:
            member.failures = 0
            for result in results:
                schedule.came(member.name, result)
            yield from results
        member.news = monotonic()

    def _lost(self, schedule: Schedule, member: Member, error: Exception) -> Iterator[Result]:
        """A worker is gone; another takes its place."""
        fault = self._fault(schedule, member, error)
        results = schedule.lost(member.name, fault)
        place = "" if member.facts is None else f" on {member.facts.address}"
        what = "is given up" if results else "is given out again"
        self.watch.note(f"a worker{place} was lost: {fault.reason}; what it was at {what}")
        self._replace(member)
        yield from results

    def _fault(self, schedule: Schedule, member: Member, error: Exception) -> Fault:
        """What the loss of a worker means for the samples that it was at, if it is they."""
        piece = schedule.working(member.name)
        timeout = None if piece is None else piece.unit.timeout
        if timeout is not None and monotonic() - member.news >= timeout:
            reason = f"took longer than timeout={timeout:g} seconds, and no alarm stopped it"
            return Fault("timeout", reason, reason)
        if isinstance(error, self.ray.exceptions.OutOfMemoryError) or NO_MEMORY in str(error):
            reason = "its process was ended, for the machine had no memory left"
            return Fault("oom", reason, reason)
        reason = "its process ended without a word: killed, or crashed"
        return Fault("failed", reason, reason)

    # ---- machines --------------------------------------------------------------------------------

    def _count(self, need: Need) -> int:
        """How many workers there are to be."""
        places = ray_cluster.room(ray_cluster.machines(self.ray), need)
        workers = self.grid.workers
        if workers is None:
            return places
        if workers > places:
            self.watch.note(
                f"workers={workers}, and there is room for {places} now, each with {need}; "
                "the others begin when there is room for them"
            )
        return workers

    def _facts(self) -> dict[str, Any]:
        """What provenance says of where the model runs."""
        facts = next(one.facts for one in self.members if one.facts is not None)
        return facts.provenance()


def _hangs(schedule: Schedule, member: Member) -> bool:
    """Whether a worker is silent for so long that not even its own watch over its steps works."""
    piece = schedule.working(member.name) if member.streams else None
    if piece is None or piece.unit.timeout is None:
        return False
    # between two results a step for every cell may lie, and some that all share
    steps = 2 * len(piece.unit.cells) + 4
    return monotonic() - member.news > steps * (piece.unit.timeout + GRACE)


def _is_ours(error: BaseException) -> bool:
    """Whether it is one of the project's own errors, which say what is wrong in a line."""
    return isinstance(error, ValueError) and type(error).__module__.startswith("prunebench.")


def _bytes(backend: Backend) -> int:
    """Bytes of a model's weights."""
    module = backend.module
    if module is None:
        return 0
    return sum(one.numel() * one.element_size() for one in module.parameters())


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"
