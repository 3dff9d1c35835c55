"""Non-inferiority: whether answers show that a method loses no more than a margin, that it loses
more, or that there are too few of them to say; and how many would do.

The test is one-sided and on paired answers. For right and wrong it is Tango's score test
(Statistics in Medicine 1998, 17:891-908), which holds where hardly any answer changes; for other
scores it is Student's of the differences, to which one answer that is lost entirely is added, for a
few equal answers are no proof. Of several tasks each counts alike, as everywhere in a report.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from math import ceil, sqrt

import numpy as np

from prunebench.study.contrasts import GroupedPair, Pair, count, paired_differences
from prunebench.study.statistics import Array

POWER = 0.8
"""How often a study of the size that is named would show what there is to show."""

MOST = 100_000_000
"""Questions beyond which a number says no more than "too many"."""


class Verdict(StrEnum):
    """What the answers show."""

    KEEPS = "keeps"
    """The loss is smaller than the margin."""
    LOSES = "loses"
    """It is larger."""
    UNDECIDED = "not enough questions to say"


@dataclass(frozen=True)
class Loss:
    """What a method loses against the unpruned model, in the task's scores: `value`, below 0 where
    it gains.

    `p` is that of "it loses the margin or more", `p_more` that of "it loses the margin or less";
    `bound` is the largest loss that the answers do not rule out. `variance` is that of the
    loss, times the `n` answers behind it.
    """

    value: float
    margin: float
    bound: float
    p: float
    p_more: float
    n: int
    variance: float

    def verdict(self, p: float | None = None, alpha: float = 0.05) -> Verdict:
        """What the answers show at that level; `p` is the one corrected for other comparisons."""
        if (self.p if p is None else p) < alpha:
            return Verdict.KEEPS
        return Verdict.LOSES if self.p_more < alpha else Verdict.UNDECIDED

    def questions(self, alpha: float = 0.05) -> int | None:
        """How many answers of the same spread would show what there is to show at that level; more
        than there are. None where no number would, for the loss is the margin.
        """
        from scipy.special import ndtri

        distance = abs(self.margin - self.value)
        if distance < 1e-9:
            return None
        reach = float(ndtri(1 - alpha) + ndtri(POWER))
        total = reach**2 * self.variance / distance**2
        return max(self.n + 1, ceil(total)) if total < MOST else None


@dataclass(frozen=True)
class _Task:
    """The differences of one task, method less reference, more being better, its `scale`: the most
    that an answer can lose, and how many answers a difference is of.
    """

    differences: Array
    scale: float
    binary: bool
    answers: float


def loss(
    pairs: Sequence[Pair | GroupedPair],
    margin: float,
    more_is_better: bool = True,
    scale: float = 1.0,
    alpha: float = 0.05,
) -> Loss:
    """What a method loses of scores in 0..`scale`, a pair of arrays a task, and whether that is
    less than the margin.

    Raises ValueError for a margin that is none.
    """
    if not 0 < margin < scale:
        raise ValueError(f"loss {margin:g} is no margin; it lies between 0 and {scale:g}")
    sign = 1.0 if more_is_better else -1.0
    tasks = [_task(pair, sign, scale) for pair in pairs]
    # no minus zero
    value = 0.0 - float(np.mean([task.differences.mean() for task in tasks]))
    n = sum(map(count, pairs))
    # the arithmetic is of differences: a loss of the margin is a difference of less the margin
    p, p_more = _p_above(tasks, -margin), _p_above(_mirrored(tasks), margin)
    bound = _bound(tasks, scale, alpha)
    return Loss(value, margin, bound, p, p_more, n, _variance(tasks, margin))


def _task(pair: Pair | GroupedPair, sign: float, scale: float) -> _Task:
    gaps = sign * paired_differences(pair)
    scores = np.concatenate([pair[0], pair[1]])
    binary = not isinstance(pair, GroupedPair) and bool(np.isin(scores, (0.0, scale)).all())
    return _Task(gaps, scale, binary, count(pair) / len(gaps))


def _mirrored(tasks: Sequence[_Task]) -> list[_Task]:
    return [replace(task, differences=-task.differences) for task in tasks]


def _p_above(tasks: Sequence[_Task], least: float) -> float:
    """The one-sided p-value of "the mean difference is `least` or less"."""
    from scipy.special import ndtr, stdtr

    if len(tasks) == 1 and tasks[0].binary:
        return float(ndtr(-_tango(tasks[0], least)))
    mean, error, freedom = _student(tasks)
    return float(stdtr(freedom, -(mean - least) / error))


def _tango(task: _Task, least: float) -> float:
    """Tango's score statistic of a difference of proportions from `least`, for paired answers."""
    differences = task.differences / task.scale
    delta, n = least / task.scale, len(differences)
    gains, losses = int((differences > 0).sum()), int((differences < 0).sum())
    linear = -gains - losses + (2 * n - gains + losses) * delta
    constant = -losses * delta * (1 - delta)
    root = sqrt(max(0.0, linear**2 - 8 * n * constant))
    # the share of losses that is likeliest where the difference is `least`
    share = (root - linear) / (4 * n)
    variance = n * (2 * share + delta * (1 - delta))
    return (gains - losses - n * delta) / sqrt(max(variance, 1e-300))


def _student(tasks: Sequence[_Task]) -> tuple[float, float, float]:
    """The mean over tasks, its standard error and degrees of freedom (Welch and Satterthwaite),
    with an answer more in every task that is lost entirely.
    """
    means, shares, freedoms = [], [], []
    for task in tasks:
        values = np.append(task.differences, -task.scale)
        means.append(float(values.mean()))
        shares.append(float(values.var(ddof=1)) / len(values) / len(tasks) ** 2)
        freedoms.append(len(values) - 1)
    total = sum(shares)
    parts = [share**2 / freedom for share, freedom in zip(shares, freedoms, strict=True)]
    return float(np.mean(means)), sqrt(total), total**2 / sum(parts)


def _bound(tasks: Sequence[_Task], scale: float, alpha: float) -> float:
    """The largest loss that is not ruled out, by halving."""
    low, high = -scale, scale
    for _ in range(40):
        middle = (low + high) / 2
        if _p_above(tasks, -middle) < alpha:
            high = middle
        else:
            low = middle
    return high


def _variance(tasks: Sequence[_Task], margin: float) -> float:
    """The variance of the mean over tasks, times all answers, were there as many of each task."""
    spreads = []
    for task in tasks:
        if task.binary:
            # where no answer changed, the margin itself says how many would
            least = margin * (task.scale - margin)
            spreads.append(max(least, float(task.differences.var())))
        else:
            variance = float(np.append(task.differences, -task.scale).var(ddof=1))
            # of answers that are drawn together no more is known than of one
            spreads.append(task.answers * variance)
    return float(np.mean(spreads))
