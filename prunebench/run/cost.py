"""Cost: a method's time and memory against the unpruned model's, on the first samples of a task;
encodings are not shared.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from math import ceil
from typing import TYPE_CHECKING

from prunebench.benchmarks import Benchmark, MediaError
from prunebench.engine.ready import Ready
from prunebench.measure.latency import PairRow, measure_pairs, summarize
from prunebench.run import samples as prompts
from prunebench.run.cell import Cell
from prunebench.run.grid import Cost
from prunebench.run.quality import on_pixels
from prunebench.run.samples import Samples, resized, seed_of
from prunebench.run.store import Row
from prunebench.study.record import Metric

if TYPE_CHECKING:
    from prunebench.models import Loaded


def calls(cost: Cost) -> int:
    """How often one cell calls `generate`."""
    return 2 * cost.inputs * (cost.warmup + ceil(cost.pairs / cost.inputs))


def inputs(loaded: Loaded, benchmark: Benchmark, cost: Cost) -> list[Samples]:
    """The first samples whose images can be read."""
    found: list[Samples] = []
    for request in benchmark.requests:
        if len(found) == cost.inputs:
            break
        try:
            found.append(prompts.read(loaded, benchmark, [request]))
        except Exception:  # whatever is wrong with this sample, the quality cells name it
            continue
    if not found:
        raise MediaError(f"no sample of {benchmark.name} can be read")
    return found


def measure(
    loaded: Loaded, cell: Cell, method: Ready, samples: list[Samples], cost: Cost
) -> tuple[list[Row], list[Metric]]:
    """The rows of pairs.parquet and the metrics; pairs are spread over the samples."""
    rows: list[PairRow] = []
    for number, prompt in enumerate(samples):
        share = ceil(cost.pairs / len(samples))
        made = _pairs(loaded, cell, method, prompt, cost, share)
        rows += [replace(row, pair=row.pair + number * share) for row in made]
    return [asdict(row) for row in rows], summarize(rows)


def _pairs(
    loaded: Loaded, cell: Cell, method: Ready, prompt: Samples, cost: Cost, pairs: int
) -> list[PairRow]:
    seeds = [seed_of(request, cell.seed) for request in prompt.requests]
    if on_pixels(cell):
        small = resized(loaded, prompt, method.pruner, cell.budget)
        return measure_pairs(
            loaded.model,
            loaded.family,
            small.inputs,
            None,
            None,
            new_tokens=cost.new_tokens,
            warmup=cost.warmup,
            pairs=pairs,
            baseline_inputs=prompt.inputs,
        )
    return measure_pairs(
        loaded.model,
        loaded.family,
        prompt.inputs,
        method,
        cell.budget,
        new_tokens=cost.new_tokens,
        warmup=cost.warmup,
        pairs=pairs,
        positions=cell.variant.positions,
        seeds=seeds,
        **prompt.told(loaded, method.pruner),
    )
