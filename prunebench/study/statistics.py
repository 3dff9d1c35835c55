"""Statistics: paired comparisons and intervals, from per-sample scores.

Samples are compared with themselves: method and reference answer the same questions, and the
bootstrap draws questions. Where several tasks are pooled, each counts alike: questions are drawn
within their task, and the number is the mean over tasks. Every draw is seeded, so the same scores
give the same interval.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.floating[Any]]
Pair = tuple[Array, Array]
LEVEL = 0.95
RESAMPLES = 2000
FLIPS = 9999
BATCH = 2_000_000


class SampleMismatch(ValueError):
    """Two cells that were scored on different samples, and so cannot be compared."""


@dataclass(frozen=True)
class Interval:
    """A number, the ends of its 95 % interval (NaN where it has none) and the count of samples
    behind it.
    """

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Difference(Interval):
    """A paired difference, with the two-sided p-value of "there is none"."""

    p: float

    @property
    def sure(self) -> bool:
        """Whether it is not zero at 95 %: by the interval, and by the test, which is right for few
        samples too.
        """
        return self.p < 1 - LEVEL and (self.low > 0 or self.high < 0)


def common(
    method: pd.Series[float], reference: pd.Series[float], asked: int | None = None
) -> pd.Index[str]:
    """The ids of the samples that both answered; NaN is no answer.

    Raises SampleMismatch where the two were asked different things: together they have more samples
    than the `asked` ones of the task, which without that number are those of the larger.
    """
    together = method.index.union(reference.index)
    if len(together) > (asked or max(len(method), len(reference))):
        odd = method.index.symmetric_difference(reference.index)
        raise SampleMismatch(
            f"scored on different samples: {len(odd)} stand in only one of the two, such as {odd[0]!r}"
        )
    return method.dropna().index.intersection(reference.dropna().index).sort_values()


def join(method: pd.Series[float], reference: pd.Series[float], asked: int | None = None) -> Pair:
    """[n] and [n] scores of the samples that both answered; raises SampleMismatch as `common` does."""
    both = common(method, reference, asked)
    return method.loc[both].to_numpy(dtype=float), reference.loc[both].to_numpy(dtype=float)


def difference(pairs: Sequence[Pair], seed: int = 0) -> Difference:
    """Method minus reference: the mean over tasks of the mean paired difference; one pair of arrays
    a task.
    """
    parts = [method - reference for method, reference in pairs]
    value = float(np.mean([part.mean() for part in parts]))

    def statistic(*index: NDArray[Any]) -> Array:
        return _mean([part[i].mean(axis=-1) for part, i in zip(parts, index, strict=True)])

    low, high = _bootstrap([len(part) for part in parts], statistic, seed)
    return Difference(value, low, high, sum(map(len, parts)), _flip_test(parts, seed))


def relative(pairs: Sequence[Pair], seed: int = 0) -> Interval:
    """Method over reference: the mean over tasks of the ratio of mean scores; NaN where the
    reference scores zero.
    """

    def statistic(*index: NDArray[Any]) -> Array:
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = [
                m[i].mean(axis=-1) / r[i].mean(axis=-1)
                for (m, r), i in zip(pairs, index, strict=True)
            ]
        return _mean(ratios)

    count = sum(len(method) for method, _ in pairs)
    if any(reference.mean() == 0 for _, reference in pairs):
        return Interval(float("nan"), float("nan"), float("nan"), count)
    sizes = [len(method) for method, _ in pairs]
    low, high = _bootstrap(sizes, statistic, seed)
    return Interval(float(statistic(*map(np.arange, sizes))), low, high, count)


def wilson(successes: int, n: int) -> Interval:
    """The share of successes with Wilson's score interval, which is right near 0 and 1 and for few
    samples.
    """
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"{successes} successes of {n} is no proportion")
    ends = stats.binomtest(successes, n).proportion_ci(LEVEL, method="wilson")
    return Interval(successes / n, float(ends.low), float(ends.high), n)


def mean(scores: Array, seed: int = 0) -> Interval:
    """The mean score: Wilson's interval where every score is 0 or 1, else bootstrapped."""
    if bool(np.isin(scores, (0.0, 1.0)).all()):
        return wilson(int(scores.sum()), len(scores))

    def statistic(index: NDArray[Any]) -> Array:
        return np.asarray(scores[index].mean(axis=-1))

    low, high = _bootstrap([len(scores)], statistic, seed)
    return Interval(float(scores.mean()), low, high, len(scores))


def pool(parts: Sequence[Interval]) -> Interval:
    """The mean of independent numbers, its interval recovered from theirs (MOVER: Zou and Donner,
    2008).
    """
    value = float(np.mean([part.value for part in parts]))
    down = float(np.sqrt(sum((part.value - part.low) ** 2 for part in parts))) / len(parts)
    up = float(np.sqrt(sum((part.high - part.value) ** 2 for part in parts))) / len(parts)
    return Interval(value, value - down, value + up, sum(part.n for part in parts))


def _mean(parts: Sequence[Array]) -> Array:
    return np.asarray(np.mean(np.stack(parts), axis=0))


def _bootstrap(
    sizes: Sequence[int], statistic: Callable[..., Array], seed: int
) -> tuple[float, float]:
    """The percentile interval of a statistic of places drawn within each task; NaN for fewer than
    two samples.

    Draws without a value, such as a ratio to a reference that solved nothing, are left out.
    """
    if min(sizes) < 2:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    batch = max(1, min(RESAMPLES, BATCH // max(sizes)))
    drawn: list[Array] = []
    for start in range(0, RESAMPLES, batch):
        count = min(batch, RESAMPLES - start)
        drawn.append(statistic(*(rng.integers(0, size, (count, size)) for size in sizes)))
    values = np.concatenate(drawn)
    low, high = np.quantile(values[np.isfinite(values)], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _flip_test(parts: Sequence[Array], seed: int) -> float:
    """Two-sided p-value of the sign-flip test; exact where all differences have one size (McNemar's
    exact test).
    """
    weights = np.concatenate([part / len(part) for part in parts])
    weights = weights[weights != 0]
    if not len(weights):
        return 1.0
    if np.allclose(np.abs(weights), abs(weights[0])):
        return float(stats.binomtest(int((weights > 0).sum()), len(weights)).pvalue)
    found = stats.permutation_test(
        (weights,),
        lambda flipped, axis: flipped.sum(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=FLIPS,
        batch=max(1, BATCH // len(weights)),
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)
