"""Statistics: the uncertainty of a cell's numbers, and paired comparisons of per-sample scores.

A cell's numbers are means, medians, or a task's own aggregation over its samples; their intervals
stand in cell.json. Comparisons are the report's. There samples are compared with themselves: method
and reference answer the same questions, and the bootstrap draws questions. Where several tasks are
pooled, each counts alike: questions are drawn within their task, and the number is the mean over
tasks. Every draw is seeded, so the same scores give the same interval.

scipy is imported where an interval is asked for: it takes a second, and whoever reads names and
columns does not need it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
Pair = tuple[Array, Array]
"""Scores of a method and of its reference, [n] and [n], on the same samples in the same order."""


class GroupedPair(NamedTuple):
    """The same for samples that are scored in groups: [groups] and [groups], as `grouped` gives
    them, and how many samples they are of.
    """

    method: Array
    reference: Array
    samples: int


Spread = tuple[float | None, float | None, float | None]
"""Standard error, low and high end of the 95 % interval; None where there are too few samples."""

Bounds = tuple[float, float]
"""The least and the most that a score can be."""

Statistic = Callable[..., Array]
"""From one array of places [draws, size] per task to the number of every draw [draws]."""

LEVEL = 0.95
TAIL = (1 - LEVEL) / 2

RESAMPLES = 2000
"""Draws behind a comparison's interval."""

CELL_RESAMPLES = 400
"""Draws behind the interval of a task's own aggregation, which is plain Python and slow."""

FLIPS = 9999
"""Random sign patterns of the sign-flip test, where not all of them can be tried."""

BATCH = 2_000_000
"""Places drawn at a time, so that large tasks fit in memory."""

NAN = float("nan")
INFINITY = float("inf")


SAME = 1e-12
"""How far apart numbers may be that are the same but for rounding."""

ROUNDED = 4
"""Decimals of a share that a task rounds to at least; of a percentage two fewer."""


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


# ---- one cell's numbers --------------------------------------------------------------------------


def mean_interval(values: Sequence[float], bounds: Bounds | None = None) -> Spread:
    """The spread of a mean: Wilson's interval for values that are all one of the two `bounds`,
    Student's for others, cut off there.

    Where nothing is said of bounds they are 0 and 1 for values between those, and 0 below for
    values none of which is negative, such as points.
    """
    n = len(values)
    if n < 2:
        return None, None, None
    array = np.asarray(values, dtype=float)
    middle = float(array.mean())
    stderr = float(array.std(ddof=1) / np.sqrt(n))
    least, most = _seen_bounds(array) if bounds is None else bounds
    at_most = np.isclose(array, most)
    if np.isfinite(most) and (at_most | np.isclose(array, least)).all():
        share = wilson(int(at_most.sum()), n)
        return stderr, least + (most - least) * share.low, least + (most - least) * share.high
    half = _quantile(n - 1) * stderr
    return stderr, max(least, middle - half), min(most, middle + half)


@cache
def _quantile(freedom: int) -> float:
    """What of Student's distribution with so many degrees of freedom an interval reaches."""
    # what `scipy.stats.t.ppf` calls; that package takes a second to import
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 1 - TAIL))


def same(mean: float, value: float) -> bool:
    """Whether a task's number is the mean of its samples, which it may have rounded."""
    if abs(mean - value) <= 1e-9 * max(1.0, abs(value)):
        return True
    decimals = len(f"{value:.10f}".rstrip("0").partition(".")[2])
    decimals = max(decimals, ROUNDED if abs(value) <= 1 else ROUNDED - 2)
    return abs(mean - value) <= 0.5000001 * 10.0**-decimals


def grouped(scores: Array, groups: Sequence[Any]) -> Array:
    """[groups] what each group adds, such that the mean over groups is the mean over samples.

    Groups are independent of each other where the samples in them are not; a group of more samples
    than others weighs more.
    """
    _, places = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    sums = np.bincount(places, weights=scores)
    return np.asarray(sums * (len(sums) / len(scores)), dtype=float)


def grouped_interval(
    values: Sequence[float], groups: Sequence[str | None], bounds: Bounds | None = None
) -> Spread:
    """The spread of a mean over samples that are drawn in groups; None where there are fewer than
    two. `bounds` are those of a group, which hold where all have one size.
    """
    sizes = Counter(groups).values()
    sums = grouped(np.asarray(values, dtype=float), groups).tolist()
    return mean_interval(sums, bounds if len(set(sizes)) == 1 else None)


def stratified_interval(
    values: Sequence[float],
    groups: Sequence[Any] | None,
    strata: Sequence[Any],
    bounds: Bounds | None = None,
) -> Spread:
    """The spread of a mean of means, by drawing samples, or their groups, anew within each stratum;
    None where every stratum has a single one.

    `values` already weigh what a sample adds, so that the number is their plain mean. Where all are
    alike, so that every draw is, the strata's own intervals are joined, which takes the `bounds` of
    what a sample or group adds to the mean of its stratum; without them there is none.
    """
    array = np.asarray(values, dtype=float)
    of_stratum = np.asarray(strata, dtype=str)
    parts: list[Array] = []
    for name in np.unique(of_stratum):
        mask = of_stratum == name
        part = array[mask]
        if groups is not None:
            part = grouped(part, [groups[int(place)] for place in np.flatnonzero(mask)])
        # of the mean over all samples
        parts.append(part * (mask.sum() / len(array)))
    sizes = [len(part) for part in parts]
    if max(sizes) < 2:
        return None, None, None

    def statistic(*places: NDArray[Any]) -> Array:
        means = [part[index].mean(axis=-1) for part, index in zip(parts, places, strict=True)]
        return np.asarray(np.sum(np.stack(means), axis=0))

    numbers = _resampled(sizes, statistic, seed=0, resamples=RESAMPLES)
    low, high = _percentiles(numbers)
    if _is_one(numbers):
        return _joined_interval(parts, bounds)
    return float(np.std(numbers, ddof=1)), low, high


def bootstrap(values: Sequence[Any], aggregate: Callable[[Sequence[Any]], float | None]) -> Spread:
    """The spread of an aggregation that is no mean, by drawing the samples anew.

    `aggregate` may give None for a draw; where it does so for more than half of them, or the same
    number for all, there is no spread: samples that are all alike do not say how far others differ.
    """

    def statistic(places: NDArray[Any]) -> Array:
        numbers = []
        for draw in places:
            number = aggregate([values[place] for place in draw])
            numbers.append(NAN if number is None else number)
        return np.asarray(numbers, dtype=float)

    n = len(values)
    if n < 2:
        return None, None, None
    numbers = _resampled([n], statistic, seed=0, resamples=CELL_RESAMPLES)
    if len(numbers) < CELL_RESAMPLES / 2 or _is_one(numbers):
        return None, None, None
    low, high = _percentiles(numbers)
    return float(np.std(numbers, ddof=1)), low, high


def median_interval(values: Sequence[float], level: float = LEVEL) -> tuple[float, float] | None:
    """Two of the values, symmetric by rank, that hold the median at least so often; they do for any
    distribution.

    None where even the smallest and the largest value do not (below 6 values for 95 %).
    """
    from scipy import stats

    test = stats.quantile_test(values, q=0, p=0.5)  # q belongs to the test, not to the interval
    ends = test.confidence_interval(level)
    if np.isnan(ends.low) or np.isnan(ends.high):
        return None
    return float(ends.low), float(ends.high)


@cache
def wilson(successes: int, n: int) -> Interval:
    """The share of successes with Wilson's score interval, which is right near 0 and 1 and for few
    samples.
    """
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"{successes} successes of {n} is no proportion")
    # as in `scipy.stats.binomtest(...).proportion_ci`; that package takes a second to import
    from scipy.special import ndtri

    share, z = successes / n, float(ndtri(0.5 + 0.5 * LEVEL))
    width = 2 * (n + z**2)
    middle = (2 * n * share + z**2) / width
    half = z / width * math.sqrt(4 * n * share * (1 - share) + z**2)
    low = middle - half if successes else 0.0
    high = middle + half if successes < n else 1.0
    return Interval(share, low, high, n)


def f1_interval(hits: int, counted: int) -> Interval:
    """The F1 of `hits` among so many samples that were said or meant to be positive, from Wilson's
    interval of their share h: F1 is 2h / (1 + h).
    """
    share = wilson(hits, counted)
    value, low, high = (2 * h / (1 + h) for h in (share.value, share.low, share.high))
    return Interval(value, low, high, counted)


# ---- comparisons ---------------------------------------------------------------------------------


def common(
    method: pd.Series[float], reference: pd.Series[float], total: int | None = None
) -> pd.Index[str]:
    """The ids of the samples that both answered; NaN is no answer.

    Raises SampleMismatch where the two were asked different things: together they have more samples
    than the task's `total`, which without that number is what the larger of the two has.
    """
    together = method.index.union(reference.index)
    if len(together) > (total or max(len(method), len(reference))):
        odd = method.index.symmetric_difference(reference.index)
        raise SampleMismatch(
            f"scored on different samples: {len(odd)} stand in only one of the two, "
            f"such as {odd[0]!r}"
        )
    # sorted, for seeded draws are of places: the same samples give the same interval
    return method.dropna().index.intersection(reference.dropna().index).sort_values()


def join(method: pd.Series[float], reference: pd.Series[float], total: int | None = None) -> Pair:
    """Scores of the samples that both answered; raises SampleMismatch as `common` does."""
    both = common(method, reference, total)
    scores = method.loc[both].to_numpy(dtype=float)
    reference_scores = reference.loc[both].to_numpy(dtype=float)
    return scores, reference_scores


def count(pair: Pair | GroupedPair) -> int:
    """How many samples a pair is of."""
    return pair.samples if isinstance(pair, GroupedPair) else len(pair[0])


def difference(pairs: Sequence[Pair | GroupedPair], seed: int = 0) -> Difference:
    """Method minus reference: the mean over tasks of the mean paired difference; one pair of arrays
    a task.
    """
    parts = [pair[0] - pair[1] for pair in pairs]
    sizes = [len(part) for part in parts]
    value = float(np.mean([part.mean() for part in parts]))

    def statistic(*places: NDArray[Any]) -> Array:
        means = []
        for part, index in zip(parts, places, strict=True):
            # [draws], the mean over the samples of each draw
            means.append(part[index].mean(axis=-1))
        return _mean(means)

    low, high = _interval_of(sizes, statistic, seed)
    return Difference(value, low, high, n=sum(map(count, pairs)), p=_flip_test(parts, seed))


def relative(pairs: Sequence[Pair | GroupedPair], seed: int = 0) -> Interval:
    """Method over reference: the mean over tasks of the ratio of mean scores; NaN where the
    reference scores zero.
    """

    def statistic(*places: NDArray[Any]) -> Array:
        ratios = []
        # draws in which the reference solves nothing have no ratio; `_resampled` leaves them out
        with np.errstate(divide="ignore", invalid="ignore"):
            for pair, index in zip(pairs, places, strict=True):
                # the last axis: `index` is [draws, n] from the bootstrap, [n] for the sample itself
                top = pair[0][index].mean(axis=-1)
                bottom = pair[1][index].mean(axis=-1)
                ratios.append(top / bottom)
        return _mean(ratios)

    sizes = [len(pair[0]) for pair in pairs]
    samples = sum(map(count, pairs))
    if any(pair[1].mean() == 0 for pair in pairs):
        return Interval(NAN, NAN, NAN, samples)
    every_sample_once = [np.arange(size) for size in sizes]
    value = float(statistic(*every_sample_once))
    low, high = _interval_of(sizes, statistic, seed)
    return Interval(value, low, high, samples)


def mean(scores: Array, seed: int = 0) -> Interval:
    """The mean score: Wilson's interval where every score is 0 or 1, else bootstrapped."""
    if _binary(scores):
        return wilson(int(scores.sum()), len(scores))

    def statistic(places: NDArray[Any]) -> Array:
        return np.asarray(scores[places].mean(axis=-1))

    low, high = _interval_of([len(scores)], statistic, seed)
    return Interval(float(scores.mean()), low, high, len(scores))


def pool(parts: Sequence[Interval]) -> Interval:
    """The mean of independent numbers, its interval recovered from theirs (MOVER: Zou and Donner,
    2008).
    """
    value = float(np.mean([part.value for part in parts]))
    below = 0.0
    above = 0.0
    for part in parts:
        below += (part.value - part.low) ** 2
        above += (part.high - part.value) ** 2
    low = value - float(np.sqrt(below)) / len(parts)
    high = value + float(np.sqrt(above)) / len(parts)
    count = sum(part.n for part in parts)
    return Interval(value, low, high, count)


# ---- the bootstrap and the test ------------------------------------------------------------------


def _seen_bounds(values: Array) -> Bounds:
    """Between what values lie, as far as they show it."""
    if values.min() < 0:
        return -INFINITY, INFINITY
    return 0.0, 1.0 if values.max() <= 1 else INFINITY


def _joined_interval(parts: Sequence[Array], bounds: Bounds | None) -> Spread:
    """The spread of the sum of the means of strata in each of which all values are alike, from
    their own intervals, as `pool` joins them. Of a stratum with one value nothing is known.
    """
    if bounds is None:
        return None, None, None
    intervals = []
    for part in parts:
        _, low, high = mean_interval(part.tolist(), bounds)
        ends = bounds if low is None or high is None else (low, high)
        intervals.append(Interval(float(part.mean()), *ends, len(part)))
    mean_of = pool(intervals)
    least, most = (len(parts) * end for end in bounds)
    low, high = (len(parts) * end for end in (mean_of.low, mean_of.high))
    return 0.0, max(least, low), min(most, high)


def _is_one(numbers: Array) -> bool:
    """Whether all draws gave the same number."""
    return bool(np.isclose(numbers.min(), numbers.max(), rtol=SAME, atol=SAME))


def _binary(scores: Array) -> bool:
    return bool(np.isin(scores, (0.0, 1.0)).all())


def _mean(parts: Sequence[Array]) -> Array:
    return np.asarray(np.mean(np.stack(parts), axis=0))


def _interval_of(sizes: Sequence[int], statistic: Statistic, seed: int) -> tuple[float, float]:
    """The percentile interval of a statistic; NaN where a task has fewer than two samples."""
    if min(sizes) < 2:
        return NAN, NAN
    return _percentiles(_resampled(sizes, statistic, seed, RESAMPLES))


def _resampled(sizes: Sequence[int], statistic: Statistic, seed: int, resamples: int) -> Array:
    """The statistic of places drawn with replacement within each task, [draws].

    Draws without a value, such as a ratio to a reference that solved nothing, are left out.
    """
    rng = np.random.default_rng(seed)
    batch = max(1, min(resamples, BATCH // max(sizes)))
    parts: list[Array] = []
    for start in range(0, resamples, batch):
        count = min(batch, resamples - start)
        # for one task the same draws whatever the batch: they are one stream of numbers
        places = [rng.integers(0, size, (count, size)) for size in sizes]
        parts.append(statistic(*places))
    values = np.concatenate(parts)
    return np.asarray(values[np.isfinite(values)])


def _percentiles(values: Array) -> tuple[float, float]:
    low, high = np.quantile(values, [TAIL, (1 + LEVEL) / 2])
    return float(low), float(high)


def _flip_test(parts: Sequence[Array], seed: int) -> float:
    """Two-sided p-value of the sign-flip test; exact where all differences have one size (McNemar's
    exact test).
    """
    from scipy import stats

    # divided by the task's samples, so that the sum is the mean over tasks
    weights = np.concatenate([part / len(part) for part in parts])
    # a difference of zero is the same under either sign
    weights = weights[weights != 0]
    if not len(weights):
        return 1.0
    if np.allclose(np.abs(weights), abs(weights[0])):
        wins = int((weights > 0).sum())
        return float(stats.binomtest(wins, len(weights)).pvalue)
    # given one array, "samples" flips signs; scipy tries all patterns where they are few enough
    test = stats.permutation_test(
        (weights,),
        lambda flipped, axis: flipped.sum(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=FLIPS,
        batch=max(1, BATCH // len(weights)),
        rng=np.random.default_rng(seed),
    )
    return float(test.pvalue)
