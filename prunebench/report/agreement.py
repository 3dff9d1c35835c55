"""Agreement: two studies side by side, what moved between them, and how far they rank methods
alike.

The studies may have asked the same questions, or others of the same kind: data of another seed, a
model that was trained again. Same questions are paired; where they are others, each study is
resampled by itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from prunebench.border.text import one_line
from prunebench.report.changes import Change, Changes, between, samples_of
from prunebench.report.comparison import Warn, cluster_codes
from prunebench.report.matches import Key
from prunebench.study import cells
from prunebench.study.cells import ReportError, StoredCell
from prunebench.study.record import BASELINE
from prunebench.study.samples import Codes
from prunebench.study.statistics import Interval, drawn_ends

DRAWS = 1000
"""Resamples of the questions behind the interval of a rank correlation."""

LEAST_METHODS = 3
"""Of fewer no ranking is worth a number."""

Clusters = Callable[["pd.Index[str]"], Codes | None]
"""Gives for questions by id the number of what each is drawn with, such as its image."""

Place = tuple[str, str, str, str]
"""Model, task, kind of budget, budget: where methods compete."""


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
    """What two studies say of the same methods, and the rows that only one of them has; `beside`
    as in Changes.
    """

    changes: tuple[Change, ...]
    rankings: tuple[Ranking, ...]
    only_first: tuple[Key, ...]
    only_second: tuple[Key, ...]
    beside: str = ""


def compare(first: Path, second: Path, warn: Warn) -> Agreement:
    """Set two studies side by side, by model, task, budget and method.

    Raises ReportError where one is no study, or they have nothing in common.
    """
    one, other = _read(Path(first), warn), _read(Path(second), warn)
    agreement = of_cells(one, other, warn)
    if not agreement.changes:
        raise ReportError(
            f"{one_line(str(first), 100)} and {one_line(str(second), 100)} share no method at one "
            "model, task and budget"
        )
    if agreement.beside:
        warn(agreement.beside)
    return agreement


def of_cells(first: Sequence[StoredCell], second: Sequence[StoredCell], warn: Warn) -> Agreement:
    """The same of two studies that were read.

    Rankings are of methods alone, without the unpruned model and the controls. Where each study has
    one task, these stand for each other whatever they are called, and so do their models.
    """
    changes = between(first, second, warn)
    rankings = tuple(_rankings(changes, warn))
    only = changes.only_first, changes.only_second
    return Agreement(changes.rows, rankings, *only, changes.beside)


def alone(_: pd.Index[str]) -> Codes | None:
    """Every question is drawn by itself."""
    return None


def rank_correlation(
    first: Sequence[pd.Series[float]],
    second: Sequence[pd.Series[float]],
    paired: bool,
    drawn_with: tuple[Clusters, Clusters] = (alone, alone),
) -> Interval:
    """Kendall's tau-b between the mean scores of methods in two studies, a series [n] a method and
    study.

    The interval is a percentile bootstrap over questions, drawn once for both where they are
    `paired`, and together with those that `drawn_with` says. Resampling adds noise to both
    rankings, so that it leans to lower values. NaN where all methods are equal in one of the two;
    no interval where all draws rank them alike.
    """
    one = pd.DataFrame(dict(enumerate(first))).sort_index()
    other = pd.DataFrame(dict(enumerate(second))).sort_index()
    left, right = one.to_numpy(dtype=float), other.to_numpy(dtype=float)
    generator = np.random.default_rng(0)
    codes = _codes(one.index, drawn_with[0]), _codes(other.index, drawn_with[1])
    own, others = _draws(generator, *codes, paired)
    taus = _taus(_means(left, own), _means(right, others))
    values = taus[np.isfinite(taus)]
    low, high = drawn_ends(values)
    once = _taus(_means(left, np.ones((1, len(left)))), _means(right, np.ones((1, len(right)))))
    return Interval(float(once[0]), low, high, len(left) + len(right))


def frame(agreement: Agreement) -> pd.DataFrame:
    """The changes as a table, one row each."""
    rows: list[dict[str, Any]] = []
    for change in agreement.changes:
        gap = change.difference
        rows.append(
            {
                "model": change.key.model,
                "task": change.task,
                "method": change.method,
                "budget_kind": change.key.budget_kind,
                "budget": change.budget,
                "status_first": change.statuses[0],
                "status_second": change.statuses[1],
                "accuracy_first": change.first,
                "accuracy_second": change.second,
                "difference": None if gap is None else gap.value,
                "difference_low": None if gap is None else gap.low,
                "difference_high": None if gap is None else gap.high,
                "p": change.p,
                "n": None if gap is None else gap.n,
                "same_questions": change.paired,
                "change": change.mark,
            }
        )
    return pd.DataFrame(rows)


def _read(study: Path, warn: Warn) -> list[StoredCell]:
    """A study's cells; what is damaged is a warning."""
    records, warnings = cells.read(study)
    for warning in warnings:
        warn(warning)
    return records


# ---- rankings ------------------------------------------------------------------------------------


def _rankings(changes: Changes, warn: Warn) -> Iterator[Ranking]:
    """A ranking a place at which enough methods have scores of their questions in both studies."""
    places: dict[Place, list[Change]] = defaultdict(list)
    for change in changes.rows:
        if not _is_control(change) and change.difference is not None:
            places[change.key[:4]].append(change)
    for place, rows in sorted(places.items()):
        paired = all(change.paired for change in rows)
        first, second = [], []
        for change in rows:
            one, other = (samples_of(group, warn) for group in change.groups)
            if one is None or other is None:
                continue
            if paired:
                both = one.index.intersection(other.index)
                one, other = one.loc[both], other.loc[both]
            first.append(one)
            second.append(other)
        if len(first) >= LEAST_METHODS:
            drawn_with = _clusters(rows, 0, warn), _clusters(rows, 1, warn)
            tau = rank_correlation(first, second, paired, drawn_with)
            yield Ranking(*place, len(first), tau)


def _clusters(rows: Sequence[Change], study: int, warn: Warn) -> Clusters:
    """With what the questions of one of the two studies are drawn."""
    own: list[StoredCell] = []
    for change in rows:
        own += change.groups[study].cells
    return lambda ids: cluster_codes(own, ids, warn)


def _is_control(change: Change) -> bool:
    """Whether it only stands there to be compared with, in either study."""
    cells_of_both = (*change.groups[0].cells, *change.groups[1].cells)
    return change.method == BASELINE or any(cell.is_control for cell in cells_of_both)


def _codes(ids: pd.Index[str], drawn_with: Clusters) -> Codes:
    """[questions] the number of what each of them is drawn with, from 0 on."""
    codes = drawn_with(ids)
    if codes is None:
        return np.arange(len(ids))
    return np.unique(codes, return_inverse=True)[1]


def _draws(
    generator: np.random.Generator, first: Codes, second: Codes, paired: bool
) -> tuple[NDArray[Any], NDArray[Any]]:
    """[draws, questions] how often each question of the two studies is drawn."""
    own, others = [], []
    for _ in range(DRAWS):
        own.append(_times(generator, first))
        if not paired:
            others.append(_times(generator, second))
    return np.array(own), np.array(own if paired else others)


def _times(generator: np.random.Generator, codes: Codes) -> NDArray[Any]:
    """[questions] how often each is drawn in one draw of as many clusters as there are."""
    count = int(codes.max(initial=-1)) + 1
    return np.bincount(generator.integers(count, size=count), minlength=count)[codes]


def _means(scores: NDArray[Any], counts: NDArray[Any]) -> NDArray[Any]:
    """[draws, methods] mean of scores [questions, methods] in every draw, of what was answered."""
    answered = np.isfinite(scores)
    sums = counts @ np.where(answered, scores, 0.0)
    with np.errstate(invalid="ignore"):
        # decimals apart: methods that are as good must tie whatever the order of a sum
        return np.asarray((sums / (counts @ answered)).round(12))


def _taus(first: NDArray[Any], second: NDArray[Any]) -> NDArray[Any]:
    """[draws] Kendall's tau-b between two tables of means [draws, methods]; NaN where one is all
    ties. scipy's takes one pair of rankings at a time.
    """
    one, other = np.triu_indices(first.shape[1], k=1)
    left = np.sign(first[:, one] - first[:, other])
    right = np.sign(second[:, one] - second[:, other])
    with np.errstate(invalid="ignore"):
        scale = np.sqrt((left != 0).sum(axis=1) * (right != 0).sum(axis=1))
        return np.asarray((left * right).sum(axis=1) / scale)
