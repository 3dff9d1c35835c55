"""Beside: what the same samples say elsewhere: the unpruned model's answers, the model without its
images, and a smaller image of as many tokens.

A pruned model can be as accurate as the unpruned one by other answers: fidelity and flips say so.
What `resize` has right needs no method; the hard samples are the ones that it has wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunebench.report.comparison import (
    SCORE,
    Cells,
    Group,
    Warn,
    average,
    mean_of,
    vector_of,
)
from prunebench.study import statistics
from prunebench.study.cells import ReportError, StoredCell
from prunebench.study.columns import INTERVAL
from prunebench.study.record import BASELINE, BLIND, RIGHT
from prunebench.study.samples import NAN, Vector, aligned
from prunebench.study.statistics import Interval

RESIZE = "resize"
"""The control that shows the model fewer pixels; what it has right is easy."""

SHARES = "0..1"

Row = dict[str, Any]
Bools = NDArray[np.bool_]


def columns(groups: Sequence[Group], warn: Warn) -> Row:
    """The columns of a row over these tasks: a number that every task has, as the mean over
    them.
    """
    row: Row = {}
    numbers = [_kept_numbers(group, warn) for group in groups]
    names: dict[str, None] = {}
    for of_group in numbers:
        names.update(dict.fromkeys(of_group))
    for name in names:
        values = [of_group.get(name) for of_group in numbers]
        present = [value for value in values if value is not None]
        if present and len(present) == len(values):
            row[name] = float(np.mean(present))
    parts = [_kept_hard(group, warn) for group in groups]
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


def _kept_numbers(group: Group, warn: Warn) -> dict[str, float | None]:
    return group.once("beside", lambda: _numbers(group, warn))


def _kept_hard(group: Group, warn: Warn) -> tuple[Interval, float | None] | None:
    return group.once("hard", lambda: _hard(group, warn))


# ---- the unpruned model's answers ----------------------------------------------------------------


def _fidelity(group: Group, warn: Warn) -> float | None:
    """The share of samples that have the answer of the unpruned model."""
    if _is(group, BASELINE):
        return None
    same: list[Bools] = []
    for cell, other in _by_seed(group.cells, group.baseline):
        try:
            samples, other_samples = cell.samples_read, other.samples_read
        except ReportError as error:
            warn(str(error))
            return None
        answers = Vector(samples.ids, samples.answers)
        reference = Vector(other_samples.ids, other_samples.answers)
        _, (own, unpruned) = aligned([answers, reference])
        both = ~np.isnan(own) & ~np.isnan(unpruned)
        same.append(own[both] == unpruned[both])
    return _share(same)


def _flips(group: Group, warn: Warn) -> dict[str, float | None]:
    """The shares of samples that the unpruned model has right and the method wrong, and the other
    way round.
    """
    lost: list[Bools] = []
    won: list[Bools] = []
    if _is(group, BASELINE):
        return {}
    for cell, other in _by_seed(group.cells, group.baseline):
        scores, unpruned = _shares(cell, group, warn), _shares(other, group, warn)
        if scores is None or unpruned is None:
            return {}
        _, (own, reference) = aligned([scores, unpruned])
        both = ~np.isnan(own) & ~np.isnan(reference)
        right, was_right = own[both] >= RIGHT, reference[both] >= RIGHT
        lost.append(~right & was_right)
        won.append(right & ~was_right)
    return {"right_to_wrong": _share(lost), "wrong_to_right": _share(won)}


def _share(parts: Sequence[Bools]) -> float | None:
    """How many of all are true; None where there are none."""
    together = np.concatenate(parts) if parts else np.zeros(0, dtype=bool)
    return float(together.mean()) if len(together) else None


# ---- other values of the task --------------------------------------------------------------------


def _on_evidence(group: Group, warn: Warn) -> float | None:
    """Accuracy over the samples that have evidence, where some have none."""
    parts: list[float] = []
    for cell in group.cells:
        scores = vector_of(cell, warn) if cell.number(SCORE) else None
        if scores is None or "evidence_recall" not in cell.samples_read.numbers:
            return None
        with_evidence = cell.samples_read.vector("evidence_recall").answered
        answered = scores.answered
        if not with_evidence.any() or with_evidence[answered].all():
            return None
        parts.append(float(scores.values[with_evidence & answered].mean()))
    return float(np.mean(parts)) if parts else None


def _blind(group: Group, _: Warn) -> float | None:
    return None if _is(group, BLIND) else average(group.blind, SCORE)


def _resize(group: Group, _: Warn) -> float | None:
    return None if _is(group, RESIZE) else average(group.resize, SCORE)


def _numbers(group: Group, warn: Warn) -> dict[str, float | None]:
    """By column of the leaderboard."""
    return {
        "fidelity": _fidelity(group, warn),
        **_flips(group, warn),
        "accuracy_evidence": _on_evidence(group, warn),
        "accuracy_blind": _blind(group, warn),
        "accuracy_resize": _resize(group, warn),
    }


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
    interval = mean_of(own, group.cells, warn)
    unpruned = _on_hard(group.baseline, group, warn)
    if not unpruned:
        return interval, None
    scores = np.concatenate([part.values[part.answered] for part in unpruned])
    return interval, float(scores.mean())


def _on_hard(cells: Cells, group: Group, warn: Warn) -> list[Vector]:
    """The scores of every seed on the samples that `resize` with that seed has wrong."""
    parts: list[Vector] = []
    for cell, smaller in _by_seed(cells, group.resize):
        easy = _shares(smaller, group, warn)
        scores = vector_of(cell, warn) if cell.number(SCORE) else None
        if easy is None or scores is None:
            return []
        ids, (own, of_smaller) = aligned([scores, easy])
        # a comparison with NaN is false
        hard = Vector(ids, np.where(of_smaller < RIGHT, own, NAN))
        if hard.answered.any():
            parts.append(hard)
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


def _shares(cell: StoredCell, group: Group, warn: Warn) -> Vector | None:
    """The scores of a cell; None where they are no shares of a right answer."""
    if group.scale != SHARES or not cell.number(SCORE):
        return None
    return vector_of(cell, warn)
