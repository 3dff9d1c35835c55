"""Summary: a finished quality cell's rows folded into metrics, scored by the task itself."""

from __future__ import annotations

from collections.abc import Sequence

from prunebench.benchmarks import Benchmark
from prunebench.measure import Metric
from prunebench.run.store import Row
from prunebench.study.interval import bootstrap, mean_interval

UNITS = {
    "tokens_available": ("available", "tokens", None),
    "tokens_input": ("tokens_input", "tokens", False),
    "tokens_mean": ("tokens_mean", "tokens", False),
    "tokens_kv": ("tokens_kv", "tokens", False),
    "evidence_recall": ("evidence_recall", "share", True),
    **{
        f"flops_{part}": (f"flops_{part}", "FLOP", False)
        for part in ("vision", "projector", "llm", "head", "selector", "total")
    },
    "kv_bytes": ("kv_bytes", "bytes", False),
}
"""Metrics that are means of a column: column, unit, whether more is better."""


def scored(benchmark: Benchmark, rows: Sequence[Row]) -> tuple[list[Row], list[Metric]]:
    """Rows with their score, and the cell's metrics over the samples that were answered."""
    answered = [row for row in rows if row["error"] is None]
    scores = benchmark.score({row["doc_id"]: row["prediction"] for row in answered})
    primary = benchmark.primary
    out = [
        {
            **row,
            "score": benchmark.value(scores[row["doc_id"]], primary)
            if row["error"] is None
            else None,
        }
        for row in rows
    ]
    metrics: list[Metric] = []
    for name in dict.fromkeys(metric for values in scores.values() for metric in values):
        values = [scores[row["doc_id"]][name] for row in answered if name in scores[row["doc_id"]]]
        numbers = [
            benchmark.value(scores[row["doc_id"]], name)
            for row in answered
            if name in scores[row["doc_id"]]
        ]
        metric = _task_metric(benchmark, name, values, numbers)
        if metric is not None:
            metrics += [metric] if name != primary else [metric, _renamed(metric, "score")]
    for name, (column, unit, better) in UNITS.items():
        numbers = [row.get(column) for row in answered]
        present = [float(number) for number in numbers if number is not None]
        if present:
            mean = sum(present) / len(present)
            metrics.append(Metric(name, mean, unit, *mean_interval(present), len(present), better))
    return out, metrics


def _task_metric(
    benchmark: Benchmark, name: str, values: Sequence[object], numbers: Sequence[float | None]
) -> Metric | None:
    value = benchmark.aggregate(name, values)
    if value is None:
        return None
    known = [number for number in numbers if number is not None]
    if len(known) == len(numbers) and abs(sum(known) / len(known) - value) < 1e-9:
        spread = mean_interval(known)
    else:
        spread = bootstrap(values, lambda drawn: benchmark.aggregate(name, drawn))
    return Metric(name, value, "score", *spread, len(values), benchmark.higher_is_better(name))


def _renamed(metric: Metric, name: str) -> Metric:
    return Metric(
        name,
        metric.value,
        metric.unit,
        metric.stderr,
        metric.ci_low,
        metric.ci_high,
        metric.n,
        metric.higher_is_better,
    )
