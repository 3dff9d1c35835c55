"""Bencher: times every case of a bench, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from PIL import Image

from prunebench import registry
from prunebench.benchmarks import Request
from prunebench.border.interruption import interrupts
from prunebench.measure.load import measure_load
from prunebench.measure.pairs import PairRow, PairSettings, itself, summarize
from prunebench.measure.throughput import LoadRow, requests_of, runs_of, summarize_load
from prunebench.models.inputs import user_message
from prunebench.run import short_run
from prunebench.run.backend import setup_of
from prunebench.run.bench import Bench, Case, cases, size_of
from prunebench.run.ceiling import Ceilings, Work, ceilings
from prunebench.run.cell import Cell
from prunebench.run.clients import Clients
from prunebench.run.fault import Fault, judged
from prunebench.run.quality import Bound, on_pixels
from prunebench.run.question import Grid
from prunebench.run.samples import Samples, prepared
from prunebench.run.transformers_backend import TransformersBackend
from prunebench.study.machine import BUSY, State, state
from prunebench.study.record import BASELINE, Metric
from prunebench.testbed.scenes import scene

if TYPE_CHECKING:
    from prunebench.engine.trace import SampleTrace
    from prunebench.run.bench_table import BenchTable

QUESTION = "What is in the picture, and how many things are there?"
"""What is asked about every image: methods that read the question need one."""

DRAWN = 448
"""Pixels that an image is drawn with before it is brought to its size."""


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

    def measure(self, case: Case) -> Timed:
        """Time one case; what goes wrong is its fault alone."""
        try:
            return self._measured(case)
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

    def _measured(self, case: Case) -> Timed:
        """The pairs of a case, and what its method spends of the budget."""
        prompts, new_tokens = self.prompts(case), self.settings.new_tokens
        full = self.unpruned(prompts[0])
        available = sum(map(len, prompts[0].layouts)) // case.batch
        if case.cell is None:
            limits = ceilings(full, full)
            timed = Timed(case, new_tokens, available, available, available, limits)
            return self._timed_smaller(timed, prompts, prompts)
        method = self._bound(case.cell)
        if method.on_pixels:
            small = []
            for samples in prompts:
                small.append(self.backend.resized(samples, method.pruner, method.budget))
            kept = sum(map(len, small[0].layouts)) / case.batch
            work = self._work(small[0], self._traces(small[0]))
            timed = Timed(case, new_tokens, available, kept, kept, ceilings(work, full))
            return self._timed_smaller(timed, small, prompts)
        traces = self._traces(prompts[0], method)
        limits = ceilings(self._work(prompts[0], traces), full)
        for samples in prompts[1:]:
            traces += self._traces(samples, method)
        mean = sum(trace.spent("mean") for trace in traces) / len(traces)
        kv = sum(trace.spent("kv") for trace in traces) / len(traces)
        return self._timed(Timed(case, new_tokens, available, mean, kv, limits), method, prompts)

    def _timed(self, timed: Timed, method: Bound, prompts: Sequence[Samples]) -> Timed:
        """The case with the times of its requests, one by one or together."""
        if timed.case.concurrent > 1:
            pruned, plain = self.clients.pruned(method, prompts), self.clients.plain(prompts)
            return replace(timed, load=tuple(measure_load(pruned, plain, self.settings)))
        (samples,) = prompts
        conditions = method.conditions(samples.requests)
        rows = self.backend.time(samples, method.method, conditions, self.settings)
        return replace(timed, rows=tuple(rows))

    def _timed_smaller(
        self, timed: Timed, small: Sequence[Samples], full: Sequence[Samples]
    ) -> Timed:
        """The same of other prompts against these, without any method."""
        if timed.case.concurrent > 1:
            clients = self.clients.plain(small), self.clients.plain(full)
            return replace(timed, load=tuple(measure_load(*clients, self.settings)))
        rows = self.backend.time_smaller(small[0], full[0], self.settings)
        return replace(timed, rows=tuple(rows))

    def unpruned(self, samples: Samples) -> Work:
        """What the unpruned model has to do for these prompts; that of the last ones is kept."""
        if self._unpruned is None or self._unpruned[0] is not samples:
            self._unpruned = samples, self._work(samples, self._traces(samples))
        return self._unpruned[1]

    def _work(self, samples: Samples, traces: Sequence[SampleTrace]) -> Work:
        """What was done for prompts that left these traces."""
        return self.backend.work(samples, traces, self.settings.new_tokens)

    def _bound(self, cell: Cell) -> Bound:
        """The method of a cell on this model."""
        pruner = cell.variant.pruner
        ready = self.backend.ready(registry.build(BASELINE) if on_pixels(pruner) else pruner)
        return Bound(pruner, ready, cell.budget, self.seed, cell.variant.positions)

    def _traces(self, samples: Samples, method: Bound | None = None) -> list[SampleTrace]:
        """What one short run left behind, of the unpruned model where no method is given."""
        return short_run.traces(self.backend, samples, method, self.seed)


def measured(bench: Bench, grid: Grid, table: BenchTable) -> Iterator[Timed]:
    """Every case that the table does not hold yet, each written before it is given out."""
    waiting = [case for case in cases(bench, grid) if not table.holds(case)]
    if not waiting:
        return
    bencher = Bencher(bench, grid)
    for case in waiting:
        timed = bencher.measure(case)
        table.add(timed)
        yield timed
