"""Comparison: one method at one budget on one task, beside the unpruned model and the random
control.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from prunebench.study import statistics
from prunebench.study.cells import Cell, Metric, ReportError
from prunebench.study.statistics import Array, Interval, Pair, SampleMismatch

NAN = float("nan")
AVAILABLE = "tokens_available"
COLUMNS = {AVAILABLE: "available"}
"""Columns of samples.parquet that are not named like their metric."""

Warn = Callable[[str], None]


@dataclass(frozen=True)
class Group:
    """The quality and cost cells of one method at one budget on one task, and the quality cells it
    is compared with.
    """

    task: str
    cells: tuple[Cell, ...]
    cost: tuple[Cell, ...]
    baseline: tuple[Cell, ...]
    control: tuple[Cell, ...]

    def accuracy(self, warn: Warn) -> Interval | None:
        """The primary metric, mean over seeds, with the interval of its samples, or else the cell's
        own.
        """
        found = _metrics(self.cells, "score")
        if not found:
            return None
        value = float(np.mean([m.value for m in found]))
        scores = [_scores(c, warn) for c in self.cells if c.metric("score")]
        known = [part.dropna() for part in scores if part is not None]
        if len(known) == len(scores):
            samples = _by_sample(known)
            return replace(statistics.mean(samples), value=value)
        count = sum(m.n or 0 for m in found)
        ends = statistics.pool([_interval(m) for m in found])
        return Interval(value, ends.low, ends.high, count)

    def against_baseline(self, warn: Warn) -> Pair | None:
        """Scores of the method and of the unpruned model on the same samples; None where either is
        missing.
        """
        return _pair(self.cells, self.baseline, warn)

    def against_control(self, warn: Warn) -> Pair | None:
        """Scores of the method and of the random control at the same budget on the same samples."""
        return _pair(self.cells, self.control, warn)

    def value(self, name: str) -> float | None:
        """A metric of the method's own, from quality where it has it, else from cost; mean over
        seeds.
        """
        own = average(self.cells, name)
        return average(self.cost, name) if own is None else own

    def asked(self) -> int | None:
        """Samples of the task; None where no cell says, which then speaks for all that it has."""
        counts = [cell.asked for cell in self.cells if cell.asked is not None]
        return max(counts, default=None)

    def paired(self, others: Sequence[Cell], pair: Pair, warn: Warn) -> str:
        """On how many samples a pair stands, where that is fewer than one of the two answered; else
        empty.
        """
        count = len(pair[0])
        if count == _answered(self.cells, warn) == _answered(others, warn):
            return ""
        return f"compared with {others[0].method} on the {count} samples that both answered"

    def relative(self) -> float | None:
        """The primary metric over the unpruned model's, where it is no mean of samples; both must
        speak for all of them.
        """
        if not all(cell.whole for cell in (*self.cells, *self.baseline)):
            return None
        return self.over_baseline("score")

    def over_baseline(self, name: str) -> float | None:
        """A metric over the unpruned model's, on the samples that both answered."""
        return self._ratio(name, name, self.baseline)

    def available(self) -> float | None:
        """Visual tokens of the unpruned model; what the method itself was offered where that was
        not run.
        """
        own = average(self.baseline, AVAILABLE)
        return average(self.cells, AVAILABLE) if own is None else own

    def share(self, name: str) -> float | None:
        """Tokens over the available ones, on the samples that both answered."""
        offered = self.baseline if average(self.baseline, AVAILABLE) is not None else self.cells
        return self._ratio(name, AVAILABLE, offered)

    def _ratio(self, above: str, below: str, others: Sequence[Cell]) -> float | None:
        top, bottom = average(self.cells, above), average(others, below)
        if top is not None and not all(cell.whole for cell in (*self.cells, *others)):
            top, bottom = _on_common(self.cells, above, others, below)
        return None if top is None or not bottom else top / bottom

    def ratio(self, phase: str) -> Interval | None:
        """Time of a phase over the unpruned model's, as the cost pass measured it in pairs."""
        found = _metrics(self.cost, f"latency_{phase}_ratio")
        return statistics.pool([_interval(m) for m in found]) if found else None


def average(cells: Sequence[Cell], name: str) -> float | None:
    """Mean of a metric over the cells that have it; None where none has."""
    found = _metrics(cells, name)
    return float(np.mean([m.value for m in found])) if found else None


def _metrics(cells: Sequence[Cell], name: str) -> list[Metric]:
    found = [cell.metric(name) for cell in cells]
    return [metric for metric in found if metric is not None]


def _interval(metric: Metric) -> Interval:
    value, low, high = (
        NAN if end is None else end for end in (metric.value, metric.low, metric.high)
    )
    return Interval(value, low, high, metric.n or 0)


def _pair(cells: Sequence[Cell], others: Sequence[Cell], warn: Warn) -> Pair | None:
    """Seed by seed, joined on sample_id; then a sample's scores are averaged over the seeds both
    ran.
    """
    references = {other.seed: other for other in others if other.metric("score")}
    left, right = [], []
    for cell, other in (
        (c, references[c.seed]) for c in cells if c.metric("score") and c.seed in references
    ):
        scores, reference = _scores(cell, warn), _scores(other, warn)
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
    return _by_sample(left), _by_sample(right)


def _on_common(
    cells: Sequence[Cell], above: str, others: Sequence[Cell], below: str
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
            mine, theirs = cell.samples, references[cell.seed].samples
            parts = (
                mine[COLUMNS.get(above, above)].dropna(),
                theirs[COLUMNS.get(below, below)].dropna(),
            )
        except (KeyError, ReportError):
            return None, None
        both = parts[0].index.intersection(parts[1].index)
        top += parts[0].loc[both].tolist()
        bottom += parts[1].loc[both].tolist()
    return (float(np.mean(top)), float(np.mean(bottom))) if top else (None, None)


def _asked(cell: Cell, other: Cell) -> int | None:
    """How many samples both were asked; None where one does not say, or they say different numbers."""
    return cell.asked if cell.asked == other.asked else None


def _answered(cells: Sequence[Cell], warn: Warn) -> int:
    """Samples that some seed answered."""
    parts = [
        scores.dropna() for scores in (_scores(cell, warn) for cell in cells) if scores is not None
    ]
    return len(set().union(*(part.index for part in parts)))


def _scores(cell: Cell, warn: Warn) -> pd.Series[float] | None:
    """Score of every sample, NaN where it has none; None where the metric is no mean of them, or
    the file is damaged.
    """
    metric = cell.metric("score")
    try:
        scores = cell.scores
    except ReportError as error:
        warn(str(error))
        return None
    if metric is None or scores.isna().all() or not np.isclose(scores.mean(), metric.value or 0.0):
        return None
    return scores


def _by_sample(parts: Sequence[pd.Series[float]]) -> Array:
    """[n] mean score of every sample over the parts, in the order of their ids."""
    return pd.concat(list(parts)).groupby(level=0).mean().to_numpy(dtype=float)
