"""Bencher: times every case of a bench, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import groupby
from typing import TYPE_CHECKING, TypeVar

import torch
from PIL import Image

from prunebench.benchmarks import Request
from prunebench.border.interruption import interrupts
from prunebench.measure.latency import TimedRun, interleaved
from prunebench.measure.load import Client, measure_load
from prunebench.measure.pairs import PairRow, PairSettings, itself, summarize
from prunebench.measure.throughput import LoadRow, requests_of, runs_of, summarize_load
from prunebench.models.inputs import user_message
from prunebench.run import short_run
from prunebench.run.backend import setup_of
from prunebench.run.bench import Bench, Case, cases, size_of
from prunebench.run.ceiling import Ceilings, Work, ceilings
from prunebench.run.clients import Clients
from prunebench.run.fault import Fault, judged
from prunebench.run.quality import Bound
from prunebench.run.question import Grid
from prunebench.run.samples import Samples, prepared
from prunebench.run.transformers_backend import TransformersBackend
from prunebench.study.machine import BUSY, State, state
from prunebench.study.record import Metric
from prunebench.testbed.scenes import scene

if TYPE_CHECKING:
    from prunebench.engine.trace import SampleTrace
    from prunebench.run.bench_table import BenchTable

QUESTION = "What is in the picture, and how many things are there?"
"""What is asked about every image: methods that read the question need one."""

DRAWN = 448
"""Pixels that an image is drawn with before it is brought to its size."""

T = TypeVar("T")


@dataclass(frozen=True)
class Timed:
    """How a case fared: what was measured, or why nothing was.

    `available` are the visual tokens of a prompt before anything is pruned, `mean` and `kv` those
    that the method spends, as a budget counts them. `ceilings` are what its ratios could come to.
    `rows` are of requests one by one, `load` of requests in flight together.
    """

    case: Case
    new_tokens: int
    available: int = 0
    mean: float | None = None
    kv: float | None = None
    ceilings: Ceilings | None = None
    rows: tuple[PairRow, ...] = ()
    load: tuple[LoadRow, ...] = ()
    fault: Fault | None = None

    @property
    def status(self) -> str:
        """What a cell of a sweep would have as its status."""
        return "ok" if self.fault is None else self.fault.cell_status

    @cached_property
    def metrics(self) -> dict[str, Metric]:
        """Medians and paired ratios with their intervals, by name."""
        rows = self.rows or runs_of(self.load)
        return {metric.metric: metric for metric in summarize(rows)} if rows else {}

    @cached_property
    def itself(self) -> Metric | None:
        """The unpruned model's time over its own, run after run; None for a single run."""
        rows = self.rows or runs_of(self.load)
        ratios = itself(rows, self.pairs) if rows else []
        return ratios[0] if ratios else None

    @property
    def machine(self) -> State | None:
        """What the unpruned model's time over its own says of the machine; None for too few runs.

        Where the case is the unpruned model against itself, that ratio is judged as well.
        """
        ratios = [self.itself]
        if self.case.cell is None:
            ratios.append(self.metrics.get("latency_total_ratio"))
        states = {state(one.ci_low, one.ci_high) for one in ratios if one is not None}
        return BUSY if BUSY in states else next(iter(states), None)

    @property
    def pairs(self) -> int:
        """How many pairs of runs were timed."""
        return len({row.pair for row in self.rows} | {row.pair for row in self.load})

    @cached_property
    def rates(self) -> dict[str, Metric]:
        """Throughput and the slowest requests, by name."""
        requests = self.load or requests_of(self.rows)
        if not requests:
            return {}
        metrics = summarize_load(requests, self.case.batch, self.new_tokens)
        return {metric.metric: metric for metric in metrics}


@dataclass(frozen=True)
class Prepared:
    """A case whose runs can begin: what is known of it before, its prompts, and those of the
    unpruned model, which are others where a method works on pixels; then there is no `method`.
    """

    timed: Timed
    prompts: Sequence[Samples]
    full: Sequence[Samples]
    method: Bound | None = None


class Bencher:
    """A loaded model, and the prompts that its methods are measured on."""

    def __init__(self, bench: Bench, grid: Grid) -> None:
        """Load the model; raises LoadError, Unsupported or GridError."""
        self.seed = bench.seed
        setup = setup_of(grid, bench.model)
        self.backend: TransformersBackend = TransformersBackend.load(setup)
        self.settings = PairSettings(bench.new_tokens, bench.warmup, bench.pairs, bench.seconds)
        self.clients = Clients(self.backend)
        self._drawn: tuple[tuple[str, int], list[Samples]] | None = None
        self._unpruned: tuple[Samples, Work] | None = None

    def measure(self, cases: Sequence[Case]) -> list[Timed]:
        """Time cases of the same prompts in one round; what goes wrong with one is its fault
        alone.
        """
        prepared = [self._tried(case, partial(self._prepared, case)) for case in cases]
        finished = iter(self._round([one for one in prepared if isinstance(one, Prepared)]))
        timed = []
        for one in prepared:
            timed.append(next(finished) if isinstance(one, Prepared) else one)
        return timed

    def _round(self, cases: Sequence[Prepared]) -> list[Timed]:
        """How the cases of a round fared."""
        if not cases:
            return []
        together = self._tried(cases[0].timed.case, partial(self._timed, cases))
        if isinstance(together, list):
            return together
        if len(cases) == 1:
            return [together]
        # one of them stumbled: by itself, so that the others have their times
        timed = []
        for case in cases:
            timed += self._round([case])
        return timed

    def _tried(self, case: Case, work: Callable[[], T]) -> T | Timed:
        """What the work gives, or how the case failed."""
        try:
            return work()
        except BaseException as error:
            if interrupts(error):
                raise
            fault = judged(error)
        # the frames of the error are gone by here, and with them what they held
        if fault.status == "oom" and torch.cuda.is_available():
            torch.cuda.empty_cache()
        return Timed(case, self.settings.new_tokens, fault=fault)

    def prompts(self, case: Case) -> list[Samples]:
        """The prompts of every request that is in flight, a picture of its own in each; those of
        the last case are kept.
        """
        key = (case.image, case.batch)
        if self._drawn is None or self._drawn[0] != key:
            self._drawn = key, []
        prompts = self._drawn[1]
        while len(prompts) < case.concurrent:
            requests, chats = [], []
            for number in range(case.batch * len(prompts), case.batch * (len(prompts) + 1)):
                pixels = scene(self.seed, number, size=(DRAWN, DRAWN)).render()
                image = Image.fromarray(pixels).resize(size_of(case.image))
                requests.append(Request(str(number), number, QUESTION, "", {}, ()))
                chats.append(user_message(image, QUESTION))
            prompts.append(prepared(self.backend.loaded, requests, chats))
        return prompts[: case.concurrent]

    def _prepared(self, case: Case) -> Prepared:
        """What a method spends of the budget, and what makes its runs."""
        prompts, new_tokens = self.prompts(case), self.settings.new_tokens
        full = self.unpruned(prompts[0])
        available = sum(map(len, prompts[0].layouts)) // case.batch
        if case.cell is None:
            limits = ceilings(full, full)
            timed = Timed(case, new_tokens, available, available, available, limits)
            return Prepared(timed, prompts, prompts)
        method = Bound.alone(self.backend, case.cell)
        if method.on_pixels:
            small = []
            for samples in prompts:
                small.append(self.backend.resized(samples, method.pruner, method.budget))
            kept = sum(map(len, small[0].layouts)) / case.batch
            work = self._work(small[0], self._traces(small[0]))
            timed = Timed(case, new_tokens, available, kept, kept, ceilings(work, full))
            return Prepared(timed, small, prompts)
        traces = self._traces(prompts[0], method)
        limits = ceilings(self._work(prompts[0], traces), full)
        for samples in prompts[1:]:
            traces += self._traces(samples, method)
        mean = sum(trace.spent("mean") for trace in traces) / len(traces)
        kv = sum(trace.spent("kv") for trace in traces) / len(traces)
        timed = Timed(case, new_tokens, available, mean, kv, limits)
        return Prepared(timed, prompts, prompts, method)

    def _timed(self, cases: Sequence[Prepared]) -> list[Timed]:
        """The cases with the times of their requests, one by one or together."""
        if cases[0].timed.case.concurrent > 1:
            clients = [self._clients(one) for one in cases]
            plain = self.clients.plain(cases[0].full)
            loads = measure_load(clients, plain, self.settings)
            return [
                replace(one.timed, load=tuple(load)) for one, load in zip(cases, loads, strict=True)
            ]
        runs = [self._runs(one) for one in cases]
        (samples,) = cases[0].full
        plain_runs = self.backend.runs(samples, self.settings.new_tokens)
        timings = interleaved(runs, plain_runs, self.settings)
        return [
            replace(one.timed, rows=tuple(rows)) for one, rows in zip(cases, timings, strict=True)
        ]

    def _clients(self, case: Prepared) -> list[Client]:
        """Those whose requests are in flight together."""
        if case.method is None:
            return self.clients.plain(case.prompts)
        return self.clients.pruned(case.method, case.prompts)

    def _runs(self, case: Prepared) -> Callable[[], TimedRun]:
        """What makes runs of one request."""
        (samples,) = case.prompts
        new_tokens, method = self.settings.new_tokens, case.method
        if method is None:
            return self.backend.runs(samples, new_tokens)
        conditions = method.conditions(samples.requests)
        return self.backend.runs(samples, new_tokens, method.method, conditions)

    def unpruned(self, samples: Samples) -> Work:
        """What the unpruned model has to do for these prompts; that of the last ones is kept."""
        if self._unpruned is None or self._unpruned[0] is not samples:
            self._unpruned = samples, self._work(samples, self._traces(samples))
        return self._unpruned[1]

    def _work(self, samples: Samples, traces: Sequence[SampleTrace]) -> Work:
        """What was done for prompts that left these traces."""
        return self.backend.work(samples, traces, self.settings.new_tokens)

    def _traces(self, samples: Samples, method: Bound | None = None) -> list[SampleTrace]:
        """What one short run left behind, of the unpruned model where no method is given."""
        return short_run.traces(self.backend, samples, method, self.seed)


def measured(bench: Bench, grid: Grid, table: BenchTable) -> Iterator[Timed]:
    """Every case that the table does not hold yet, each written before it is given out."""
    waiting = [case for case in cases(bench, grid) if not table.holds(case)]
    if not waiting:
        return
    bencher = Bencher(bench, grid)
    for cases_of_round in rounds(waiting, bench.round):
        for timed in bencher.measure(cases_of_round):
            table.add(timed)
            yield timed


def rounds(cases: Sequence[Case], most: int) -> Iterator[list[Case]]:
    """Cases in their order, by as many as are timed in one round: of the same prompts, so that the
    unpruned model's run is the same for all of them.
    """
    for _, same in groupby(cases, lambda case: (case.image, case.batch, case.concurrent)):
        left = list(same)
        for start in range(0, len(left), most):
            yield left[start : start + most]
