"""Agreement: two studies side by side, what moved between them, and how far they rank methods
alike.

The studies may have asked the same questions, or others of the same kind: data of another seed, a
model that was trained again. Same questions are paired; where they are others, each study is
resampled by itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from prunebench.border.text import one_line
from prunebench.report.comparison import Warn
from prunebench.study import cells, statistics, tables
from prunebench.study.cells import ReportError, StoredCell
from prunebench.study.facts import Damaged
from prunebench.study.statistics import Interval

DRAWS = 1000
"""Resamples of the questions behind the interval of a rank correlation."""

LEAST_METHODS = 3
"""Of fewer no ranking is worth a number."""

Place = tuple[str, str, str, str]
"""Model, task, kind of budget, budget: where methods compete."""

Scores = Mapping[Place, Mapping[str, pd.Series]]
"""By place and method [n] scores by sample."""


@dataclass(frozen=True)
class Change:
    """One method at one place in two studies; `difference` is the second's accuracy less the
    first's, and `paired` says that both asked the same questions.
    """

    model: str
    task: str
    budget_kind: str
    budget: str
    method: str
    first: float
    second: float
    difference: Interval
    paired: bool

    @property
    def mark(self) -> str:
        """What the second study shows of the method, beside the first."""
        if self.difference.low > 0:
            return "better"
        return "worse" if self.difference.high < 0 else "no difference shown"


@dataclass(frozen=True)
class Ranking:
    """How far two studies rank methods alike at one place: Kendall's tau-b of their accuracies,
    with the interval over questions.
    """

    model: str
    task: str
    budget_kind: str
    budget: str
    methods: int
    tau: Interval


@dataclass(frozen=True)
class Agreement:
    """What two studies say of the same methods."""

    changes: tuple[Change, ...]
    rankings: tuple[Ranking, ...]


@dataclass(frozen=True)
class _Study:
    """The scores of a study; `answers` are the right answers of a task's samples, which tell its
    questions from others that go by the same numbers.
    """

    scores: Scores
    answers: Mapping[str, Mapping[str, str | None]]
    controls: frozenset[str]


def compare(first: Path, second: Path, warn: Warn) -> Agreement:
    """Set two studies side by side, by model, task, budget and method.

    Rankings are of methods alone, without the unpruned model and the controls. Where each study has
    one task, these stand for each other whatever they are called. Raises ReportError where one is
    no study, or they have nothing in common.
    """
    one, other = _read(Path(first), warn), _read(Path(second), warn)
    names = _same_tasks(one, other, warn)
    controls = one.controls | other.controls
    changes: list[Change] = []
    rankings: list[Ranking] = []
    for place in sorted(one.scores):
        model, task, kind, budget = place
        mine = one.scores[place]
        theirs = other.scores.get((model, names.get(task, task), kind, budget), {})
        methods = [method for method in mine if method in theirs]
        if not methods:
            continue
        shared = _shared(one.answers[task], other.answers[names.get(task, task)])
        pairs = {method: _pair(mine[method], theirs[method], shared) for method in methods}
        for method in sorted(methods):
            changes.append(_change(place, method, *pairs[method], paired=bool(shared)))
        ranked = [pairs[method] for method in methods if method not in controls]
        if len(ranked) >= LEAST_METHODS:
            first_scores, second_scores = zip(*ranked, strict=True)
            tau = rank_correlation(first_scores, second_scores, paired=bool(shared))
            rankings.append(Ranking(*place, len(ranked), tau))
    if not changes:
        raise ReportError(
            f"{one_line(str(first), 100)} and {one_line(str(second), 100)} share no method at one "
            "model, task and budget"
        )
    return Agreement(tuple(changes), tuple(rankings))


def rank_correlation(
    first: Sequence[pd.Series[float]], second: Sequence[pd.Series[float]], paired: bool
) -> Interval:
    """Kendall's tau-b between the mean scores of methods in two studies, a series [n] a method and
    study.

    The interval is a percentile bootstrap over questions, drawn once for both where they are
    `paired`. Resampling adds noise to both rankings, so that it leans to lower values. NaN where
    all methods are equal in one of the two.
    """
    left = pd.DataFrame(dict(enumerate(first))).sort_index().to_numpy(dtype=float)
    right = pd.DataFrame(dict(enumerate(second))).sort_index().to_numpy(dtype=float)
    generator = np.random.default_rng(0)
    taus: list[float] = []
    for _ in range(DRAWS):
        own = generator.integers(len(left), size=len(left))
        others = own if paired else generator.integers(len(right), size=len(right))
        taus.append(_tau(left[own], right[others]))
    values = np.array(taus)[np.isfinite(taus)]
    low, high = np.quantile(values, [0.025, 0.975]) if len(values) else (np.nan, np.nan)
    return Interval(_tau(left, right), float(low), float(high), len(left) + len(right))


def frame(agreement: Agreement) -> pd.DataFrame:
    """The changes as a table, one row each."""
    rows: list[dict[str, Any]] = []
    for change in agreement.changes:
        rows.append(
            {
                "model": change.model,
                "task": change.task,
                "method": change.method,
                "budget_kind": change.budget_kind,
                "budget": change.budget,
                "accuracy_first": change.first,
                "accuracy_second": change.second,
                "difference": change.difference.value,
                "difference_low": change.difference.low,
                "difference_high": change.difference.high,
                "same_questions": change.paired,
                "change": change.mark,
            }
        )
    return pd.DataFrame(rows)


def _read(study: Path, warn: Warn) -> _Study:
    """All scores of a study's quality cells; what is damaged is a warning."""
    records, warnings = cells.read(study)
    for warning in warnings:
        warn(warning)
    parts: dict[Place, dict[str, list[pd.Series[float]]]] = defaultdict(lambda: defaultdict(list))
    answers: dict[str, dict[str, str | None]] = {}
    controls: set[str] = set()
    for cell in records:
        if cell.kind != "quality" or not cell.ok:
            continue
        try:
            scores = cell.scores
            answers.setdefault(cell.task, {}).update(_answers(cell))
        except (ReportError, Damaged) as error:
            warn(str(error))
            continue
        if scores.isna().all():
            warn(f"task {one_line(cell.task, 60)} scores no question by itself")
            continue
        place = cell.model, cell.task, cell.budget_kind, cell.budget
        parts[place][cell.method].append(scores)
        if cell.is_control:
            controls.add(cell.method)
    means: dict[Place, dict[str, pd.Series[float]]] = {}
    for place, methods in parts.items():
        # seeds answer the same questions, so a sample counts once
        means[place] = {name: _mean_of_seeds(of) for name, of in methods.items()}
    return _Study(means, answers, frozenset(controls))


def _answers(cell: StoredCell) -> dict[str, str | None]:
    """The right answer of every sample; empty where the cell does not say."""
    texts = tables.read_texts(cell.folder / "samples.parquet", ["reference"])
    return dict(zip(texts["sample_id"], texts.get("reference", ()), strict=False))


def _mean_of_seeds(parts: Sequence[pd.Series[float]]) -> pd.Series[float]:
    return pd.concat(list(parts)).groupby(level=0).mean()


def _same_tasks(one: _Study, other: _Study, warn: Warn) -> dict[str, str]:
    """The second study's name of a task of the first, where it has another one."""
    mine, theirs = list(one.answers), list(other.answers)
    if len(mine) != 1 or len(theirs) != 1 or mine == theirs:
        return {}
    warn(f"task {one_line(mine[0], 60)} is set beside {one_line(theirs[0], 60)}")
    return {mine[0]: theirs[0]}


def _shared(mine: Mapping[str, str | None], theirs: Mapping[str, str | None]) -> list[str]:
    """The samples that both studies asked; none where a number goes by two right answers, for then
    the questions are others.
    """
    shared = sorted(mine.keys() & theirs.keys())
    return shared if all(mine[sample] == theirs[sample] for sample in shared) else []


def _pair(
    first: pd.Series[float], second: pd.Series[float], shared: list[str]
) -> tuple[pd.Series[float], pd.Series[float]]:
    """The scores of the shared samples; all, where there are none."""
    if not shared:
        return first, second
    return first.reindex(shared), second.reindex(shared)


def _change(
    place: Place, method: str, first: pd.Series[float], second: pd.Series[float], *, paired: bool
) -> Change:
    """What moved for one method."""
    own, other = first.dropna(), second.dropna()
    if paired:
        interval: Interval = statistics.difference([statistics.join(second, first)])
    else:
        interval = _unpaired(own.to_numpy(dtype=float), other.to_numpy(dtype=float))
    return Change(*place, method, float(own.mean()), float(other.mean()), interval, paired)


def _unpaired(first: NDArray[Any], second: NDArray[Any]) -> Interval:
    """Second less first, its interval recovered from theirs (MOVER: Newcombe, 1998, method 10)."""
    own, other = statistics.mean(first), statistics.mean(second)
    value = other.value - own.value
    below = np.hypot(other.value - other.low, own.high - own.value)
    above = np.hypot(other.high - other.value, own.value - own.low)
    return Interval(value, value - float(below), value + float(above), own.n + other.n)


def _tau(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Kendall's tau-b of the methods' means over samples [n, methods], of those they answered."""
    from scipy import stats

    means = np.nanmean(first, axis=0), np.nanmean(second, axis=0)
    return float(stats.kendalltau(*means, method="asymptotic").statistic)
