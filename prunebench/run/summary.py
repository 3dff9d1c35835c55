"""Summary: the rows of a quality cell folded into its numbers, scored by the task itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from prunebench.benchmarks import Benchmark
from prunebench.study.columns import SAMPLES, Column
from prunebench.study.record import Metric
from prunebench.study.statistics import bootstrap, mean_interval
from prunebench.study.tables import Row

SCORE = "score"
"""The name under which every cell has the number of its task's primary metric."""

SAME = 1e-9
"""How far the mean of the samples may be from what a task aggregates, to be the same number."""


def scored(benchmark: Benchmark, rows: Sequence[Row]) -> tuple[list[Row], list[Metric]]:
    """Rows with their score, and the cell's numbers over the samples that were answered."""
    answered = [row for row in rows if row["error"] is None]
    scores = benchmark.score({row["doc_id"]: row["prediction"] for row in answered})
    primary = benchmark.primary
    scored_rows = []
    for row in rows:
        score = None
        if row["error"] is None:
            own = scores[row["doc_id"]]
            score = benchmark.value(own, primary)
        scored_rows.append({**row, "score": score})
    in_order = [scores[row["doc_id"]] for row in answered]
    metrics = _task_metrics(benchmark, primary, in_order)
    for column in SAMPLES:
        if column.metric:
            metrics += _column_mean(column, answered)
    return scored_rows, metrics


def _task_metrics(
    benchmark: Benchmark, primary: str, scores: Sequence[Mapping[str, Any]]
) -> list[Metric]:
    """What the task makes of the samples' own values; its primary metric also as the score."""
    metrics = []
    for name in _names(scores):
        values = [own[name] for own in scores if name in own]
        numbers = [benchmark.value(own, name) for own in scores if name in own]
        metric = _task_metric(benchmark, name, values, numbers)
        if metric is None:
            continue
        metrics.append(metric)
        if name == primary:
            metrics.append(replace(metric, metric=SCORE))
    return metrics


def _names(scores: Sequence[Mapping[str, Any]]) -> list[str]:
    """Every metric that a sample has, in order of first appearance."""
    names: dict[str, None] = {}
    for own in scores:
        names.update(dict.fromkeys(own))
    return list(names)


def _task_metric(
    benchmark: Benchmark, name: str, values: Sequence[Any], numbers: Sequence[float | None]
) -> Metric | None:
    """The task's own aggregation. Its spread is that of a mean where it is the mean of the samples'
    numbers; else the samples are drawn anew.
    """
    value = benchmark.aggregate(name, values)
    if value is None:
        return None
    present = [number for number in numbers if number is not None]
    if len(present) == len(numbers) and abs(sum(present) / len(present) - value) < SAME:
        interval = mean_interval(present)
    else:
        interval = bootstrap(values, partial(benchmark.aggregate, name))
    better = benchmark.higher_is_better(name)
    return Metric(name, value, "score", *interval, len(values), better)


def _column_mean(column: Column, rows: Sequence[Row]) -> list[Metric]:
    """The mean of a column over the samples that have it; none where no sample does."""
    numbers = []
    for row in rows:
        number = row.get(column.name)
        if number is not None:
            numbers.append(float(number))
    if not numbers:
        return []
    n = len(numbers)
    mean = sum(numbers) / n
    interval = mean_interval(numbers)
    better = column.higher_is_better
    return [Metric(column.metric, mean, column.unit, *interval, n, better)]
