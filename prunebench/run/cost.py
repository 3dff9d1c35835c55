"""Cost: a method's time and memory against the unpruned model's, on the first samples of a task;
encodings are not shared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from math import ceil

from prunebench.benchmarks import Benchmark, MediaError
from prunebench.measure.pairs import PairRow, PairSettings, summarize
from prunebench.run.backend import Backend
from prunebench.run.quality import Bound
from prunebench.run.question import Cost
from prunebench.run.samples import Samples
from prunebench.run.store import Row
from prunebench.study.record import Metric


def calls(cost: Cost) -> int:
    """How often one cell calls `generate`."""
    # twice, for the method and for the unpruned model; pairs as `measure` spreads them
    return 2 * cost.inputs * (cost.warmup + ceil(cost.pairs / cost.inputs))


def inputs(backend: Backend, benchmark: Benchmark, cost: Cost) -> list[Samples]:
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
    return readable


def measure(backend: Backend, cell: Bound, inputs: Sequence[Samples], cost: Cost) -> list[Row]:
    """The rows of pairs.parquet; pairs are spread over the inputs."""
    share = ceil(cost.pairs / len(inputs))
    settings = PairSettings(cost.new_tokens, cost.warmup, share)
    rows: list[Row] = []
    for number, samples in enumerate(inputs):
        if cell.on_pixels:
            small = backend.resized(samples, cell.method.pruner, cell.budget)
            pairs = backend.time_smaller(small, samples, settings)
        else:
            conditions = cell.conditions(samples.requests)
            pairs = backend.time(samples, cell.method, conditions, settings)
        # pairs are numbered through, over all inputs
        rows += [asdict(replace(row, pair=row.pair + number * share)) for row in pairs]
    return rows


def metrics(rows: Sequence[Row]) -> list[Metric]:
    """What the rows of pairs.parquet come to."""
    return summarize([PairRow(**row) for row in rows])
