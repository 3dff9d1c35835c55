"""Pairs: what runs of a method and of the unpruned model took, and the medians of that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from prunebench.study.columns import PHASES, Phase, declared
from prunebench.study.record import Metric
from prunebench.study.statistics import median_interval

Variant = Literal["method", "baseline"]

VARIANTS: tuple[Variant, ...] = ("method", "baseline")
SUFFIXES: dict[Variant, str] = {"method": "", "baseline": "_baseline"}


@dataclass(frozen=True)
class PairSettings:
    """How pairs are measured: at least `pairs` of them and at least `min_seconds`, after `warmup`
    pairs that are thrown away, each of exactly `new_tokens` new tokens.

    Raises ValueError for fewer than 2 new tokens, and for no pair.
    """

    new_tokens: int = 8
    warmup: int = 2
    pairs: int = 10
    min_seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.new_tokens < 2:
            raise ValueError(f"new_tokens is {self.new_tokens}; decode time needs at least 2")
        if self.pairs < 1 or self.warmup < 0:
            raise ValueError(
                f"pairs is {self.pairs} and warmup {self.warmup}; "
                "measure at least 1 pair after 0 or more of warm-up"
            )


USUAL = PairSettings()

ITSELF = "latency_itself_ratio"
"""What the unpruned model's time over its own is called."""


@dataclass(frozen=True)
class PairRow:
    """One phase of one run; `order` is its place among the runs of its round, from 0: of two, where
    no other method was timed in turn with this one.

    `ms` is per token for decode. `peak_memory_mib` is that of the phase, and of "select" None,
    which lies inside others; energy and `kv_bytes`, those of live keys and values after the prefill
    without padding, stand in the rows of the phase "total". None where the platform does not tell.
    """

    pair: int
    order: int
    variant: Variant
    phase: Phase
    ms: float
    peak_memory_mib: float | None = None
    kv_bytes: int | None = None
    joules: float | None = None


def summarize(rows: Sequence[PairRow]) -> list[Metric]:
    """Median of every phase that was timed and of every variant, median of the ratios method /
    baseline within pairs, memory and energy of both.

    Intervals are order statistics of the median, hold for any distribution and cover at least 95 %;
    fewer than 6 pairs give none. Selection has no baseline. Raises ValueError where a pair lacks a
    variant.
    """
    by_run: dict[tuple[Variant, Phase], dict[int, PairRow]] = {}
    for row in rows:
        by_run.setdefault((row.variant, row.phase), {})[row.pair] = row
    pairs = sorted({row.pair for row in rows})
    for pair in pairs:
        for variant in VARIANTS:
            if pair not in by_run.get((variant, "total"), {}):
                raise ValueError(f"pair {pair} has no {variant} run")
    metrics: list[Metric] = []
    for phase in PHASES:
        if ("method", phase) not in by_run:  # where requests share the device
            continue
        method = [by_run["method", phase][pair].ms for pair in pairs]
        if phase == "select":
            metrics.append(median_of("latency_select_ms", method))
            continue
        for variant in VARIANTS:
            runs = by_run[variant, phase]
            metrics += _peak(phase, variant, [runs[pair] for pair in pairs])
        baseline = [by_run["baseline", phase][pair].ms for pair in pairs]
        metrics += _latency(phase, method, baseline)
    totals: dict[Variant, list[PairRow]] = {}
    for variant in VARIANTS:
        totals[variant] = [by_run[variant, "total"][pair] for pair in pairs]
        metrics += _cache(variant, totals[variant])
    return metrics + _energy(totals["method"], totals["baseline"])


def itself(rows: Sequence[PairRow], share: int) -> list[Metric]:
    """The unpruned model's time over its own, of runs that follow each other on the same input,
    which has `share` pairs: were the machine quiet, 1. None for a single run an input.

    No run is made for it: pairs have them. A slow run makes one ratio large and the next one small,
    so that the interval is rather too wide than too narrow.
    """
    totals = {}
    for row in rows:
        if (row.variant, row.phase) == ("baseline", "total"):
            totals[row.pair] = row.ms
    ratios = []
    for pair, ms in sorted(totals.items()):
        if pair % share and totals[pair - 1]:
            ratios.append(ms / totals[pair - 1])
    return [median_of(ITSELF, ratios)] if ratios else []


def _latency(phase: Phase, method: Sequence[float], baseline: Sequence[float]) -> list[Metric]:
    """Milliseconds of both, and their ratios where the clock saw the baseline at all."""
    metrics = [
        median_of(f"latency_{phase}_ms", method),
        median_of(f"latency_{phase}_baseline_ms", baseline),
    ]
    if all(baseline):
        ratios = [ours / theirs for ours, theirs in zip(method, baseline, strict=True)]
        metrics.append(median_of(f"latency_{phase}_ratio", ratios))
    return metrics


def _peak(phase: Phase, variant: Variant, runs: Sequence[PairRow]) -> list[Metric]:
    """The peak memory of a phase, as far as its runs have it."""
    peaks = [row.peak_memory_mib for row in runs if row.peak_memory_mib is not None]
    of_phase = "" if phase == "total" else f"_{phase}"
    name = f"peak_memory{of_phase}{SUFFIXES[variant]}_mib"
    return [median_of(name, peaks)] if peaks else []


def _cache(variant: Variant, totals: Sequence[PairRow]) -> list[Metric]:
    """The cache of one variant, as far as its runs have it."""
    caches = [float(row.kv_bytes) for row in totals if row.kv_bytes is not None]
    return [median_of(f"kv_bytes{SUFFIXES[variant]}", caches)] if caches else []


def _energy(method: Sequence[PairRow], baseline: Sequence[PairRow]) -> list[Metric]:
    """Joules of a run of both, and their ratio, where the device tells of every run: it does not of
    short ones, and long ones alone would pass for all.
    """
    own = [row.joules for row in method if row.joules is not None]
    others = [row.joules for row in baseline if row.joules is not None]
    if len(own) < len(method) or len(others) < len(baseline):
        return []
    metrics = [median_of("energy_j", own), median_of("energy_baseline_j", others)]
    if all(others):
        ratios = [ours / theirs for ours, theirs in zip(own, others, strict=True)]
        metrics.append(median_of("energy_ratio", ratios))
    return metrics


def median_of(name: str, values: Sequence[float]) -> Metric:
    """The median as a number of the cell, with the unit that the table of columns has for it."""
    column = declared(name)
    low, high = median_interval(values) or (None, None)
    return Metric(
        name, median(values), column.unit, None, low, high, len(values), column.higher_is_better
    )
