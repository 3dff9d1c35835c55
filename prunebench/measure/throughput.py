"""Throughput: what requests in flight together come to, and the time that each takes meanwhile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles

from prunebench.measure.pairs import SUFFIXES, VARIANTS, PairRow, Variant, median_of
from prunebench.study.columns import declared
from prunebench.study.record import Metric


@dataclass(frozen=True)
class LoadRow:
    """One request of a run in which several clients send requests at once: when it was sent,
    counted from the moment when all began, and what its answer took.

    Peak memory and energy are those of the whole run; None where the platform does not tell.
    """

    pair: int
    order: int
    variant: Variant
    client: int
    request: int
    sent_ms: float
    ms: float
    peak_memory_mib: float | None = None
    joules: float | None = None


def requests_of(rows: Sequence[PairRow]) -> list[LoadRow]:
    """Timed runs as runs of one client that sends one request."""
    requests = []
    for row in rows:
        if row.phase == "total":
            memory = row.peak_memory_mib, row.joules
            requests.append(LoadRow(row.pair, row.order, row.variant, 0, 0, 0.0, row.ms, *memory))
    return requests


def runs_of(rows: Sequence[LoadRow]) -> list[PairRow]:
    """Runs of many requests as timed runs of one, which takes the median of their times; no phase
    but the whole has a time of its own.
    """
    runs = []
    for (variant, pair), requests in _runs(rows).items():
        one, ms = requests[0], median(row.ms for row in requests)
        memory = one.peak_memory_mib, None, one.joules
        runs.append(PairRow(pair, one.order, variant, "total", ms, *memory))
    return runs


def summarize_load(rows: Sequence[LoadRow], batch: int, new_tokens: int) -> list[Metric]:
    """Prompts and new tokens a second of both variants, where a request has `batch` prompts that
    get `new_tokens` each; the ratio method / baseline within pairs; and the time that 95 % of the
    requests stay below, linear between neighbours.
    """
    runs = _runs(rows)
    rates: dict[Variant, list[float]] = {}
    metrics = []
    for variant in VARIANTS:
        of_variant = [run for (name, _), run in sorted(runs.items()) if name == variant]
        rates[variant] = [batch * _rate(run) for run in of_variant]
        suffix = SUFFIXES[variant]
        metrics.append(median_of(f"requests_per_s{suffix}", rates[variant]))
        tokens = [new_tokens * rate for rate in rates[variant]]
        metrics.append(median_of(f"tokens_per_s{suffix}", tokens))
        times = [row.ms for row in rows if row.variant == variant]
        column = declared(f"latency_p95{suffix}_ms")
        metrics.append(
            Metric(
                column.metric,
                _slow(times),
                column.unit,
                n=len(times),
                higher_is_better=column.higher_is_better,
            )
        )
    both = zip(rates["method"], rates["baseline"], strict=True)
    ratios = [ours / theirs for ours, theirs in both]
    return [*metrics, median_of("requests_per_s_ratio", ratios)]


def _runs(rows: Sequence[LoadRow]) -> Mapping[tuple[Variant, int], list[LoadRow]]:
    """The requests of every run, by variant and pair."""
    runs: dict[tuple[Variant, int], list[LoadRow]] = {}
    for row in rows:
        runs.setdefault((row.variant, row.pair), []).append(row)
    return runs


def _rate(run: Sequence[LoadRow]) -> float:
    """Requests a second, from when all clients began to when the last of them had its answer."""
    return 1e3 * len(run) / max(row.sent_ms + row.ms for row in run)


def _slow(times: Sequence[float]) -> float:
    """The 95th percentile."""
    return times[0] if len(times) == 1 else quantiles(times, n=20, method="inclusive")[-1]
