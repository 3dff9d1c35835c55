"""Cost: a method's time and memory against the unpruned model's, on the first samples of a task;
encodings are not shared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import ceil

from prunebench.benchmarks import Benchmark, MediaError
from prunebench.measure.pairs import PairRow, PairSettings, itself, summarize
from prunebench.run.backend import Backend
from prunebench.run.ceiling import Work, ceilings, shares
from prunebench.run.quality import Bound
from prunebench.run.question import Cost
from prunebench.run.samples import Samples
from prunebench.run.short_run import traces
from prunebench.run.store import Row
from prunebench.study.record import Metric


@dataclass(frozen=True)
class CostInput:
    """A sample that is timed, and what it asks of the unpruned model."""

    samples: Samples
    unpruned: Work


@dataclass(frozen=True)
class Measured:
    """What a cell costs: the rows of pairs.parquet, and what they come to."""

    rows: tuple[Row, ...]
    metrics: tuple[Metric, ...]


def calls(cost: Cost) -> int:
    """How often one cell calls `generate`, but for the short run that ceilings come from."""
    # twice, for the method and for the unpruned model; pairs as `measure` spreads them
    return 2 * cost.inputs * (cost.warmup + ceil(cost.pairs / cost.inputs))


def inputs(backend: Backend, benchmark: Benchmark, cost: Cost) -> list[CostInput]:
    """The first samples whose images can be read; raises MediaError where there are none."""
    readable: list[Samples] = []
    for request in benchmark.requests:
        if len(readable) == cost.inputs:
            break
        try:
            readable.append(backend.read(benchmark, [request]))
        except Exception:  # whatever is wrong with this sample, the quality cells name it
            continue
    if not readable:
        raise MediaError(f"no sample of {benchmark.name} can be read")
    cost_inputs = []
    for samples in readable:
        work = backend.work(samples, traces(backend, samples), cost.new_tokens)
        cost_inputs.append(CostInput(samples, work))
    return cost_inputs


def measure(backend: Backend, cell: Bound, inputs: Sequence[CostInput], cost: Cost) -> Measured:
    """Time a cell; pairs are spread over the inputs."""
    share = ceil(cost.pairs / len(inputs))
    settings = PairSettings(cost.new_tokens, cost.warmup, share)
    rows: list[PairRow] = []
    works: list[Work] = []
    for number, one in enumerate(inputs):
        samples = one.samples
        if cell.on_pixels:
            small = backend.resized(samples, cell.method.pruner, cell.budget)
            left = traces(backend, small)
            works.append(backend.work(small, left, cost.new_tokens))
            pairs = backend.time_smaller(small, samples, settings)
        else:
            left = traces(backend, samples, cell)
            works.append(backend.work(samples, left, cost.new_tokens))
            conditions = cell.conditions(samples.requests)
            pairs = backend.time(samples, cell.method, conditions, settings)
        # pairs are numbered through, over all inputs
        rows += [replace(row, pair=row.pair + number * share) for row in pairs]
    limits = ceilings(Work.sum(works), Work.sum([one.unpruned for one in inputs]))
    metrics = summarize(rows)
    metrics += [*itself(rows, share), *shares(limits, metrics)]
    return Measured(tuple(asdict(row) for row in rows), tuple(metrics))
