"""Beside: what the same samples say elsewhere: the unpruned model's answers, the model without its
images, and a smaller image of as many tokens.

A pruned model can be as accurate as the unpruned one by other answers: fidelity and flips say so.
What `resize` has right needs no method; the hard samples are the ones that it has wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from prunebench.report.comparison import (
    SCORE,
    Cells,
    Group,
    Warn,
    average,
    clusters_of,
    mean_of,
    scores_of,
)
from prunebench.study import statistics
from prunebench.study.cells import ReportError, StoredCell
from prunebench.study.columns import INTERVAL
from prunebench.study.record import BASELINE, BLIND, RIGHT
from prunebench.study.statistics import Interval

RESIZE = "resize"
"""The control that shows the model fewer pixels; what it has right is easy."""

SHARES = "0..1"

Row = dict[str, Any]
Number = Callable[[Group, Warn], float | None]


def columns(groups: Sequence[Group], warn: Warn) -> Row:
    """The columns of a row over these tasks: a number that every task has, as the mean over
    them.
    """
    row: Row = {}
    for name, number in NUMBERS.items():
        values = [number(group, warn) for group in groups]
        present = [value for value in values if value is not None]
        if present and len(present) == len(values):
            row[name] = float(np.mean(present))
    parts = [_hard(group, warn) for group in groups]
    hard = [part for part in parts if part is not None]
    if hard and len(hard) == len(parts):
        interval = statistics.pool([part[0] for part in hard]) if len(hard) > 1 else hard[0][0]
        ends = (interval.value, interval.low, interval.high)
        row |= {f"hard{end}": value for end, value in zip(INTERVAL, ends, strict=True)}
        row["n_hard"] = interval.n
        unpruned = [part[1] for part in hard if part[1] is not None]
        if len(unpruned) == len(hard):
            row["hard_none"] = float(np.mean(unpruned))
    return row


# ---- the unpruned model's answers ----------------------------------------------------------------


def _fidelity(group: Group, warn: Warn) -> float | None:
    """The share of samples that have the answer of the unpruned model."""
    same: list[bool] = []
    for cell, other in _by_seed(group.cells, group.baseline):
        try:
            own, unpruned = cell.read_answers(), other.answers
        except ReportError as error:
            warn(str(error))
            return None
        both = own.index.intersection(unpruned.index)
        same += (own.loc[both] == unpruned.loc[both]).tolist()
    return float(np.mean(same)) if same and not _is(group, BASELINE) else None


def _right_to_wrong(group: Group, warn: Warn) -> float | None:
    return _flips(group, warn)[0]


def _wrong_to_right(group: Group, warn: Warn) -> float | None:
    return _flips(group, warn)[1]


def _flips(group: Group, warn: Warn) -> tuple[float | None, float | None]:
    """The shares of samples that the unpruned model has right and the method wrong, and the other
    way round.
    """
    lost: list[bool] = []
    won: list[bool] = []
    for cell, other in _by_seed(group.cells, group.baseline):
        own, unpruned = _right(cell, group, warn), _right(other, group, warn)
        if own is None or unpruned is None or _is(group, BASELINE):
            return None, None
        both = own.index.intersection(unpruned.index)
        lost += (~own.loc[both] & unpruned.loc[both]).tolist()
        won += (own.loc[both] & ~unpruned.loc[both]).tolist()
    return (float(np.mean(lost)), float(np.mean(won))) if lost else (None, None)


# ---- other values of the task --------------------------------------------------------------------


def _on_evidence(group: Group, warn: Warn) -> float | None:
    """Accuracy over the samples that have evidence, where some have none."""
    parts: list[float] = []
    for cell in group.cells:
        scores = scores_of(cell, warn) if cell.number(SCORE) else None
        if scores is None or "evidence_recall" not in cell.per_sample:
            return None
        with_evidence = cell.per_sample["evidence_recall"].notna()
        answered = scores.notna()
        if not with_evidence.any() or with_evidence[answered].all():
            return None
        parts.append(float(scores[with_evidence & answered].mean()))
    return float(np.mean(parts)) if parts else None


def _blind(group: Group, _: Warn) -> float | None:
    return None if _is(group, BLIND) else average(group.blind, SCORE)


def _resize(group: Group, _: Warn) -> float | None:
    return None if _is(group, RESIZE) else average(group.resize, SCORE)


NUMBERS: dict[str, Number] = {
    "fidelity": _fidelity,
    "right_to_wrong": _right_to_wrong,
    "wrong_to_right": _wrong_to_right,
    "accuracy_evidence": _on_evidence,
    "accuracy_blind": _blind,
    "accuracy_resize": _resize,
}
"""By column of the leaderboard."""


# ---- the hard samples ----------------------------------------------------------------------------


def _hard(group: Group, warn: Warn) -> tuple[Interval, float | None] | None:
    """Accuracy on the samples that `resize` has wrong at the same budget, and that of the unpruned
    model on them.
    """
    if _is(group, RESIZE):
        return None
    own = _on_hard(group.cells, group, warn)
    if not own:
        return None
    interval = mean_of(own, clusters_of(group.cells, warn))
    unpruned = _on_hard(group.baseline, group, warn)
    return interval, float(pd.concat(unpruned).mean()) if unpruned else None


def _on_hard(cells: Cells, group: Group, warn: Warn) -> list[pd.Series[float]]:
    """The scores of every seed on the samples that `resize` with that seed has wrong."""
    parts: list[pd.Series[float]] = []
    for cell, smaller in _by_seed(cells, group.resize):
        easy = _right(smaller, group, warn)
        scores = scores_of(cell, warn) if cell.number(SCORE) else None
        if easy is None or scores is None:
            return []
        wrong = easy.index[~easy].intersection(scores.dropna().index)
        if len(wrong):
            parts.append(scores.loc[wrong])
    return parts


# ---- samples -------------------------------------------------------------------------------------


def _by_seed(cells: Cells, others: Cells) -> Iterator[tuple[StoredCell, StoredCell]]:
    """The cells of the same seed."""
    references = {other.seed: other for other in others if other.ok}
    for cell in cells:
        if cell.ok and cell.seed in references:
            yield cell, references[cell.seed]


def _is(group: Group, method: str) -> bool:
    return any(cell.method == method for cell in group.cells)


def _right(cell: StoredCell, group: Group, warn: Warn) -> pd.Series[bool] | None:
    """Whether every answered sample is right; None where scores are no shares of a right answer."""
    if group.scale != SHARES or not cell.number(SCORE):
        return None
    scores = scores_of(cell, warn)
    return None if scores is None else scores.dropna() >= RIGHT
