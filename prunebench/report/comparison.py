"""Comparison: one method at one budget on one task, beside the unpruned model and the random
control.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from prunebench.study import contrasts, statistics
from prunebench.study.cells import ReportError, StoredCell
from prunebench.study.columns import declared
from prunebench.study.contrasts import GroupedPair, Pair, SampleMismatch
from prunebench.study.record import Metric
from prunebench.study.samples import Array, Codes, Labels, Vector, aligned, coded
from prunebench.study.statistics import NAN, Interval

SCORE = "score"
AVAILABLE = "tokens_available"
PERCENT = 100.0

T = TypeVar("T")
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
    kept: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """What was asked of it before: rows of one task and of all tasks ask the same."""

    def once(self, name: str, number: Callable[[], T]) -> T:
        """What `number` gives, which is asked once under that name."""
        if name not in self.kept:
            self.kept[name] = number()
        value: T = self.kept[name]
        return value

    def accuracy(self, warn: Warn) -> Interval | None:
        """The primary metric, mean over seeds, with the interval of its samples, or else the cell's
        own.
        """
        return self.once("accuracy", lambda: self._accuracy(warn))

    def _accuracy(self, warn: Warn) -> Interval | None:
        value = average(self.cells, SCORE)
        if value is None:
            return None
        answered: list[Vector] = []
        intervals: list[Interval] = []
        for cell in self.cells:
            metric = cell.number(SCORE)
            if metric is None:
                continue
            intervals.append(_interval(metric))
            scores = vector_of(cell, warn)
            if scores is not None:
                answered.append(scores)
        # seeds answer the same questions, so a sample counts once, whatever the number of seeds
        if len(answered) == len(intervals):
            interval = mean_of(answered, self.cells, warn)
        else:
            interval = statistics.averaged(intervals)
        return replace(interval, value=value)

    def against_baseline(self, warn: Warn) -> Pair | GroupedPair | None:
        """Scores of the method and of the unpruned model on the same samples; None where either is
        missing.
        """
        return self.once("baseline", lambda: _pair(self.cells, self.baseline, warn))

    def against_control(self, warn: Warn) -> Pair | GroupedPair | None:
        """Scores of the method and of the random control at the same budget on the same samples;
        None as well where the method could not keep to the budget.
        """
        if any(cell.reach for cell in self.cells):
            return None
        return self.once("control", lambda: _pair(self.cells, self.control, warn))

    def against_blind(self, warn: Warn) -> Pair | GroupedPair | None:
        """Scores of the method and of the model without its images on the same samples."""
        return self.once("blind", lambda: _pair(self.cells, self.blind, warn))

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

        def number() -> float | None:
            own = average(self.cells, name)
            return average(self.cost, name) if own is None else own

        return self.once(f"value {name}", number)

    def of_control(self, name: str) -> float | None:
        """A metric of the random control at the same budget."""
        return self.once(f"control {name}", lambda: average(self.control, name))

    def asked(self) -> int | None:
        """Samples of the task; None where no cell says, which then speaks for all that it has."""
        counts = [cell.asked for cell in self.cells if cell.asked is not None]
        return max(counts, default=None)

    def paired(self, others: Cells, pair: Pair | GroupedPair, warn: Warn) -> str:
        """On how many samples a pair stands, where that is fewer than one of the two answered; else
        empty.
        """
        count = contrasts.count(pair)
        own = self.once("answered", lambda: _answered(self.cells, warn))
        if count == own == _answered(others, warn):
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
        return self.once(f"over {name}", lambda: self._ratio(name, name, self.baseline))

    def offered(self, name: str) -> float | None:
        """A metric of the unpruned model, such as its visual tokens; the method's own where that
        was not run.
        """
        unpruned = average(self.baseline, name)
        return average(self.cells, name) if unpruned is None else unpruned

    def share(self, name: str) -> float | None:
        """Tokens over the available ones, on the samples that both answered."""

        def number() -> float | None:
            unpruned = average(self.baseline, AVAILABLE)
            others = self.cells if unpruned is None else self.baseline
            return self._ratio(name, AVAILABLE, others)

        return self.once(f"share {name}", number)

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
    values = np.array([metric.value for metric in metrics], dtype=float)
    # as `numpy.mean` does it, which looks at its arguments for longer than at a few seeds
    return float(np.add.reduce(values)) / len(values)


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
    vectors: list[Vector] = []
    for cell in cells:
        other = references.get(cell.seed)
        if other is None or not cell.number(SCORE):
            continue
        scores, reference = vector_of(cell, warn), vector_of(other, warn)
        if scores is None or reference is None:
            return None
        try:
            contrasts.check_same(scores.ids, reference.ids, _asked(cell, other))
        except SampleMismatch as error:
            warn(f"cells {cell.id} and {other.id} are not compared: {error}")
            return None
        vectors += (scores, reference)
    if not vectors:
        return None
    ids, values = aligned(vectors)
    left, right = np.stack(values[::2]), np.stack(values[1::2])
    both = ~np.isnan(left) & ~np.isnan(right)
    seeds = both.sum(axis=0)
    mask = seeds > 0
    if not mask.any():
        return None
    # [n] the means over the seeds in which both answered
    sums = (np.where(both, part, 0.0).sum(axis=0)[mask] for part in (left, right))
    own, other = (total / seeds[mask] for total in sums)
    codes = cluster_codes([*cells, *others], ids, warn)
    return pair_of(own, other, None if codes is None else codes[mask])


def pair_of(own: Array, other: Array, codes: Codes | None) -> Pair | GroupedPair:
    """Scores [n] of the same samples as a pair; `codes` [n] are the numbers of what samples are
    drawn with, whose scores become one.
    """
    if codes is None:
        return own, other
    (by_method, sizes), (by_reference, _) = (
        statistics.group_sums(part, codes) for part in (own, other)
    )
    return GroupedPair(by_method, by_reference, sizes)


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
            mine = cell.samples_read.vector(_column(above))
            theirs = references[cell.seed].samples_read.vector(_column(below))
        except (KeyError, ReportError):
            return None, None
        _, (own, other) = aligned([mine, theirs])
        both = ~np.isnan(own) & ~np.isnan(other)
        top += own[both].tolist()
        bottom += other[both].tolist()
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
    vectors = [vector_of(cell, warn) for cell in cells]
    scored = [vector for vector in vectors if vector is not None]
    if not scored:
        return 0
    _, values = aligned(scored)
    return int((~np.isnan(np.stack(values))).any(axis=0).sum())


def vector_of(cell: StoredCell, warn: Warn) -> Vector | None:
    """Score of every sample, NaN where it has none; None where the metric is no mean of them, or
    the file is damaged.
    """
    try:
        return cell.mean_scores
    except ReportError as error:
        warn(str(error))
        return None


def sample_means(parts: Sequence[Vector]) -> Vector:
    """The mean score of every sample over the parts that have it; samples that none has are left
    out.
    """
    ids, values = aligned(parts)
    stacked = np.stack(values)
    answered = ~np.isnan(stacked)
    count = answered.sum(axis=0)
    places = count.nonzero()[0]
    means = np.where(answered, stacked, 0.0).sum(axis=0)[places] / count[places]
    return Vector(ids if len(places) == len(ids) else ids[places], means)


def cluster_codes(cells: Cells, ids: pd.Index[str], warn: Warn) -> Codes | None:
    """[n] the number of what every sample is drawn with, in the order of the names; None where each
    stands alone. A sample of which no cell says that is its own.
    """
    labels_of_cells: dict[int, Labels] = {}
    for cell in cells:
        try:
            labels = cell.cluster_labels
            if labels is not None:
                labels_of_cells[id(labels)] = labels
        except ReportError as error:
            warn(str(error))
    if not labels_of_cells:
        return None
    first, *others = labels_of_cells.values()
    if not others and first.ids is ids:
        return first.codes
    names: dict[str, str] = {}
    for labels in labels_of_cells.values():
        for sample, text in zip(labels.ids, labels.texts, strict=True):
            if text is not None:
                names.setdefault(sample, text)
    return coded([names.get(sample, f"sample {sample}") for sample in ids])


def mean_of(parts: Sequence[Vector], cells: Cells, warn: Warn) -> Interval:
    """The mean over samples, each over the parts that have it; samples are drawn as `cells` say."""
    means = sample_means(parts)
    return statistics.mean(means.values, cluster_codes(cells, means.ids, warn))
