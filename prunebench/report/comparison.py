"""Comparison: one method at one budget on one task, beside the unpruned model and the random
control.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from prunebench.study import statistics
from prunebench.study.cells import ReportError, StoredCell
from prunebench.study.columns import declared
from prunebench.study.record import Metric
from prunebench.study.statistics import (
    NAN,
    GroupedPair,
    Interval,
    Pair,
    SampleMismatch,
)

SCORE = "score"
AVAILABLE = "tokens_available"
PERCENT = 100.0

Cells = Sequence[StoredCell]
Warn = Callable[[str], None]


@dataclass(frozen=True)
class Group:
    """The quality and cost cells of one method at one budget on one task, and the quality cells it
    is compared with.

    `scale` is that of the task's primary metric, as `scale_of` says it.
    """

    task: str
    cells: tuple[StoredCell, ...]
    cost: tuple[StoredCell, ...]
    baseline: tuple[StoredCell, ...]
    control: tuple[StoredCell, ...]
    blind: tuple[StoredCell, ...] = ()
    resize: tuple[StoredCell, ...] = ()
    scale: str = ""

    def accuracy(self, warn: Warn) -> Interval | None:
        """The primary metric, mean over seeds, with the interval of its samples, or else the cell's
        own.
        """
        value = average(self.cells, SCORE)
        if value is None:
            return None
        answered: list[pd.Series[float]] = []
        intervals: list[Interval] = []
        for cell in self.cells:
            metric = cell.number(SCORE)
            if metric is None:
                continue
            intervals.append(_interval(metric))
            scores = scores_of(cell, warn)
            if scores is not None:
                answered.append(scores.dropna())
        # seeds answer the same questions, so a sample counts once, whatever the number of seeds
        if len(answered) == len(intervals):
            interval = mean_of(answered, clusters_of(self.cells, warn))
        else:
            interval = statistics.pool(intervals)
        return replace(interval, value=value)

    def against_baseline(self, warn: Warn) -> Pair | GroupedPair | None:
        """Scores of the method and of the unpruned model on the same samples; None where either is
        missing.
        """
        return _pair(self.cells, self.baseline, warn)

    def against_control(self, warn: Warn) -> Pair | GroupedPair | None:
        """Scores of the method and of the random control at the same budget on the same samples;
        None as well where the method could not keep to the budget.
        """
        if any(cell.reach for cell in self.cells):
            return None
        return _pair(self.cells, self.control, warn)

    def against_blind(self, warn: Warn) -> Pair | GroupedPair | None:
        """Scores of the method and of the model without its images on the same samples."""
        return _pair(self.cells, self.blind, warn)

    def above_blind(self) -> float | None:
        """The primary metric less that of the model without its images; both must speak for all
        samples.
        """
        own, blind = average(self.cells, SCORE), average(self.blind, SCORE)
        partly = not all(cell.whole for cell in (*self.cells, *self.blind))
        return None if own is None or blind is None or partly else own - blind

    def value(self, name: str) -> float | None:
        """A metric of the method's own, from quality where it has it, else from cost; mean over
        seeds.
        """
        own = average(self.cells, name)
        return average(self.cost, name) if own is None else own

    def of_control(self, name: str) -> float | None:
        """A metric of the random control at the same budget."""
        return average(self.control, name)

    def asked(self) -> int | None:
        """Samples of the task; None where no cell says, which then speaks for all that it has."""
        counts = [cell.asked for cell in self.cells if cell.asked is not None]
        return max(counts, default=None)

    def paired(self, others: Cells, pair: Pair | GroupedPair, warn: Warn) -> str:
        """On how many samples a pair stands, where that is fewer than one of the two answered; else
        empty.
        """
        count = statistics.count(pair)
        if count == _answered(self.cells, warn) == _answered(others, warn):
            return ""
        return f"compared with {others[0].method} on the {count} samples that both answered"

    def relative(self) -> float | None:
        """The primary metric over the unpruned model's, where it is no mean of samples; both must
        speak for all of them.
        """
        if not all(cell.whole for cell in (*self.cells, *self.baseline)):
            return None
        return self.over_baseline(SCORE)

    def over_baseline(self, name: str) -> float | None:
        """A metric over the unpruned model's, on the samples that both answered."""
        return self._ratio(name, name, self.baseline)

    def offered(self, name: str) -> float | None:
        """A metric of the unpruned model, such as its visual tokens; the method's own where that
        was not run.
        """
        unpruned = average(self.baseline, name)
        return average(self.cells, name) if unpruned is None else unpruned

    def share(self, name: str) -> float | None:
        """Tokens over the available ones, on the samples that both answered."""
        unpruned = average(self.baseline, AVAILABLE)
        return self._ratio(name, AVAILABLE, self.cells if unpruned is None else self.baseline)

    def interval(self, name: str) -> Interval | None:
        """A metric of the cost pass with its interval, mean over seeds."""
        metrics = _metrics(self.cost, name)
        if not metrics:
            return None
        return statistics.pool([_interval(metric) for metric in metrics])

    def _ratio(self, above: str, below: str, others: Cells) -> float | None:
        """One metric of the method over another of the others; None where there is none, or it is
        zero.
        """
        top = average(self.cells, above)
        bottom = average(others, below)
        partly = not all(cell.whole for cell in (*self.cells, *others))
        if top is not None and partly:
            # the means that the cells give are over different samples
            top, bottom = _on_common(self.cells, above, others, below)
        if top is None or not bottom:
            return None
        return top / bottom


def scale_of(task: str, cells: Cells) -> str:
    """On what scale the primary metric of a task stands, read off all its cells: numbers of two
    tasks can be averaged where it is the same.
    """
    metrics = _metrics(cells, SCORE)
    if not metrics:
        return ""
    direction = "" if any(cell.more_is_better for cell in cells) else "lower is better"
    units = {metric.unit for metric in metrics} - {"", SCORE}
    largest = max(abs(metric.value or 0.0) for metric in metrics)
    if units or largest > PERCENT:
        scale = f"{' or '.join(sorted(units)) or 'numbers'} of {task}"
    else:
        scale = "0..100" if largest > 1 else "0..1"
    return ", ".join(filter(None, [scale, direction]))


def average(cells: Cells, name: str) -> float | None:
    """Mean of a metric over the cells that have it; None where none has."""
    metrics = _metrics(cells, name)
    if not metrics:
        return None
    return float(np.mean([metric.value for metric in metrics]))


def _metrics(cells: Cells, name: str) -> list[Metric]:
    """A metric of every cell that has it."""
    metrics = []
    for cell in cells:
        metric = cell.number(name)
        if metric is not None:
            metrics.append(metric)
    return metrics


def _interval(metric: Metric) -> Interval:
    """A metric with the interval that its cell gives it."""
    value, low, high = map(_or_nan, (metric.value, metric.ci_low, metric.ci_high))
    return Interval(value, low, high, metric.n or 0)


def _or_nan(number: float | None) -> float:
    return NAN if number is None else number


def _pair(cells: Cells, others: Cells, warn: Warn) -> Pair | GroupedPair | None:
    """Seed by seed, joined on sample_id; then a sample's scores are averaged over the seeds both
    ran, and those of samples that the task scores together become their group's.
    """
    references = {other.seed: other for other in others if other.number(SCORE)}
    left, right = [], []
    for cell in cells:
        other = references.get(cell.seed)
        if other is None or not cell.number(SCORE):
            continue
        scores, reference = scores_of(cell, warn), scores_of(other, warn)
        if scores is None or reference is None:
            return None
        try:
            both = statistics.common(scores, reference, _asked(cell, other))
        except SampleMismatch as error:
            warn(f"cells {cell.id} and {other.id} are not compared: {error}")
            return None
        left.append(scores.loc[both])
        right.append(reference.loc[both])
    if not left or not sum(map(len, left)):
        return None
    groups = clusters_of([*cells, *others], warn)
    return pair_of(sample_means(left), sample_means(right), groups)


def pair_of(
    scores: pd.Series[float], reference: pd.Series[float], groups: pd.Series[str] | None
) -> Pair | GroupedPair:
    """Scores of the same samples in the same order as a pair; those that are drawn together become
    their group's.
    """
    own, other = scores.to_numpy(dtype=float), reference.to_numpy(dtype=float)
    if groups is None:
        return own, other
    names = cluster_names(scores.index, groups)
    by_method, by_reference = (statistics.grouped(part, names) for part in (own, other))
    return GroupedPair(by_method, by_reference, len(own))


def _on_common(
    cells: Cells, above: str, others: Cells, below: str
) -> tuple[float | None, float | None]:
    """Means of two metrics over the samples that both answered, seed by seed; None where a cell has
    no such column.
    """
    references = {other.seed: other for other in others}
    top: list[float] = []
    bottom: list[float] = []
    for cell in cells:
        if cell.seed not in references:
            continue
        try:
            mine = cell.per_sample[_column(above)].dropna()
            theirs = references[cell.seed].per_sample[_column(below)].dropna()
        except (KeyError, ReportError):
            return None, None
        both = mine.index.intersection(theirs.index)
        top += mine.loc[both].tolist()
        bottom += theirs.loc[both].tolist()
    if not top:
        return None, None
    return float(np.mean(top)), float(np.mean(bottom))


def _column(metric: str) -> str:
    """The column of samples.parquet behind a metric."""
    return SCORE if metric == SCORE else declared(metric).name


def _asked(cell: StoredCell, other: StoredCell) -> int | None:
    """How many samples both were asked; None where one does not say, or they say different
    numbers.
    """
    return cell.asked if cell.asked == other.asked else None


def _answered(cells: Cells, warn: Warn) -> int:
    """Samples that some seed answered."""
    names: set[str] = set()
    for cell in cells:
        scores = scores_of(cell, warn)
        if scores is not None:
            names.update(scores.dropna().index)
    return len(names)


def scores_of(cell: StoredCell, warn: Warn) -> pd.Series[float] | None:
    """Score of every sample, NaN where it has none; None where the metric is no mean of them, or
    the file is damaged.
    """
    metric = cell.number(SCORE)
    try:
        scores = cell.scores
    except ReportError as error:
        warn(str(error))
        return None
    if metric is None or scores.isna().all():
        return None
    # a task may aggregate otherwise than by the mean; then samples say nothing of the metric
    mean = float(scores.mean())
    value = metric.value or 0.0
    return scores if np.isclose(mean, value) or statistics.same(mean, value) else None


def sample_means(parts: Sequence[pd.Series[float]]) -> pd.Series[float]:
    """The mean score of every sample over the parts, by its id and in the order of ids."""
    return pd.concat(list(parts)).groupby(level=0).mean()


def clusters_of(cells: Cells, warn: Warn) -> pd.Series[str] | None:
    """What every sample that one of the cells answered is drawn with; None where each stands
    alone.
    """
    parts: list[pd.Series[str]] = []
    for cell in cells:
        try:
            groups = cell.clusters
        except ReportError as error:
            warn(str(error))
            continue
        if groups is not None:
            parts.append(groups)
    if not parts:
        return None
    together = pd.concat(parts)
    return together[~together.index.duplicated()]


def cluster_names(samples: Iterable[Any], groups: pd.Series[str]) -> list[str]:
    """What every sample is drawn with; one of which nothing is known is its own."""
    names = []
    for sample in samples:
        names.append(str(groups.get(sample, f"sample {sample}")))
    return names


def mean_of(parts: Sequence[pd.Series[float]], groups: pd.Series[str] | None) -> Interval:
    """The mean over samples, which are drawn in groups where the task has some."""
    scores = sample_means(parts)
    if groups is None:
        return statistics.mean(scores.to_numpy(dtype=float))
    of_group = statistics.grouped(scores.to_numpy(dtype=float), cluster_names(scores.index, groups))
    return replace(statistics.mean(of_group), n=len(scores))
