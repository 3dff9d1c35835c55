"""Statistics: the uncertainty of a cell's numbers, and of what is pooled of several.

A cell's numbers are means, medians, or a task's own aggregation over its samples; their intervals
stand in cell.json. Every draw is seeded, so the same scores give the same interval. What a method
has over another is in `contrasts`.

scipy is imported where an interval is asked for: it takes a second, and whoever reads names and
columns does not need it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunebench.study import draws

Array = NDArray[np.floating[Any]]
Codes = NDArray[np.intp]

Spread = tuple[float | None, float | None, float | None]
"""Standard error, low and high end of the 95 % interval; None where there are too few samples."""

Bounds = tuple[float, float]
"""The least and the most that a score can be."""

LEVEL = 0.95
TAIL = (1 - LEVEL) / 2

RESAMPLES = 2000
"""Draws behind a comparison's interval."""

CELL_RESAMPLES = 400
"""Draws behind the interval of a task's own aggregation, which is plain Python and slow."""

NAN = float("nan")
INFINITY = float("inf")


ROUNDING = 100 * float(np.finfo(float).eps)
"""By what share of itself a sum of the same numbers can differ, at most."""

SAME = 1e-12
"""How far apart numbers may be that are the same but for rounding."""

ROUNDED = 4
"""Decimals of a share that a task rounds to at least; of a percentage two fewer."""


@dataclass(frozen=True)
class Interval:
    """A number, the ends of its 95 % interval (NaN where it has none) and the count of samples
    behind it.
    """

    value: float
    low: float
    high: float
    n: int


# ---- one cell's numbers --------------------------------------------------------------------------


def mean_interval(values: Sequence[float], bounds: Bounds | None = None) -> Spread:
    """The spread of a mean of samples that are drawn one by one, as `clustered_interval` has it."""
    return clustered_interval(values, None, bounds)


def clustered_interval(
    values: Sequence[float],
    groups: Sequence[Any] | None,
    bounds: Bounds | None = None,
    weights: Sequence[float] | None = None,
) -> Spread:
    """The spread of a mean over samples that are drawn in groups, or one by one where there are
    none. `weights` say how much of a group's number each sample stands for, where not all alike.

    Where every group lies on one of the two `bounds` the interval is Wilson's, else Student's, cut
    off there. Where nothing is said of bounds they are 0 and 1 for values between those, and 0
    below for values none of which is negative, such as points. None where there are fewer than two
    groups, or where all are alike and lie on no bound: they do not say how far others differ.
    """
    array = np.asarray(values, dtype=float)
    codes = np.arange(len(array)) if groups is None else _numbered(groups)
    if not len(array):
        return None, None, None
    parts = np.zeros(len(array), dtype=np.intp)
    of_sample = None if weights is None else np.asarray(weights, dtype=float)
    return spreads(array, parts, codes, bounds, of_sample)[0]


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


def spreads(
    values: Array,
    parts: Codes,
    clusters: Codes,
    bounds: Bounds | None = None,
    weights: Array | None = None,
) -> list[Spread]:
    """The spread of the mean of every part of `values` [n], as `clustered_interval` has it; `parts`
    [n] numbers the part and `clusters` [n] what a value is drawn with.
    """
    added, present = _added(values, parts, clusters, weights)
    counts = present.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):  # a part of one cluster varies nowhere
        means = np.where(present, added, 0.0).sum(axis=1) / counts
        squares = np.where(present, added - means[:, None], 0.0) ** 2
        stderrs = np.sqrt(squares.sum(axis=1) / (counts - 1) / counts)
    if bounds is None:
        bounds = seen_bounds(float(values.min()), float(values.max()))
    least, most = bounds
    slack = SAME * max(1.0, float(np.abs(values).max(initial=0.0)))
    at_most = (np.abs(added - most) <= slack) & present
    at_bounds = (at_most | (np.abs(added - least) <= slack) | ~present).all(axis=1)
    at_bounds &= bool(np.isfinite(most))
    result: list[Spread] = []
    for part, count in enumerate(counts.tolist()):
        middle, stderr = float(means[part]), float(stderrs[part])
        if count > 1 and at_bounds[part]:
            share, reach = wilson(int(at_most[part].sum()), count), most - least
            result.append((stderr, least + reach * share.low, least + reach * share.high))
        elif count > 1 and stderr > slack:
            half = _quantile(count - 1) * stderr
            result.append((stderr, max(least, middle - half), min(most, middle + half)))
        else:
            result.append((None, None, None))
    return result


def _added(
    values: Array, parts: Codes, clusters: Codes, weights: Array | None = None
) -> tuple[Array, NDArray[np.bool_]]:
    """[parts, clusters] what each cluster adds to the mean of its part, such that their plain mean
    is that mean; and which clusters a part has.

    A mean over clusters of any size is a ratio of two sums, and varies by what the values of a
    cluster differ from it in sum, not by how many they are (Cochran, Sampling Techniques, 1977,
    section 9A.1).
    """
    shape = int(parts.max()) + 1, int(clusters.max()) + 1
    places = parts * shape[1] + clusters

    def summed(numbers: Array | None) -> Array:
        sums = np.bincount(places, weights=numbers, minlength=shape[0] * shape[1])
        return sums.reshape(shape).astype(float)

    members, sums = summed(None), summed(values)
    present = members > 0
    sizes = members if weights is None else summed(weights)
    n, counts = members.sum(axis=1), present.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):  # a part without values has no mean
        means = sums.sum(axis=1) / n
        shares = sizes / sizes.sum(axis=1)[:, None]
        residuals = (sums / n[:, None] - shares * means[:, None]) * counts[:, None]
    return means[:, None] + residuals, present


def _numbered(names: Sequence[Any]) -> Codes:
    """[n] the number of every name, in their order."""
    _, codes = np.unique(np.asarray(names, dtype=str), return_inverse=True)
    return codes


def group_sums(scores: Array, codes: Codes) -> tuple[Array, Array]:
    """[groups] the sum of every group's scores [n] and how many they are; `codes` [n] number the
    groups, in whose order they stand.
    """
    sizes = np.bincount(codes)
    sums = np.bincount(codes, weights=scores)
    return sums[sizes > 0].astype(float), sizes[sizes > 0].astype(float)


def stratified_interval(
    values: Sequence[float],
    groups: Sequence[Any] | None,
    strata: Sequence[Any],
    bounds: Bounds | None = None,
    weights: Sequence[float] | None = None,
) -> Spread:
    """The spread of a mean of means, by drawing samples, or their groups, anew within each stratum;
    None where every stratum has a single one.

    `values` already weigh what a sample adds, so that the number is their plain mean; `weights` are
    as for `clustered_interval`. Where all are alike, so that every draw is, the strata's own
    intervals are joined, which takes the `bounds` of what a sample or group adds to the mean of its
    stratum; without them there is none.
    """
    array = np.asarray(values, dtype=float)
    codes = np.arange(len(array)) if groups is None else _numbered(groups)
    of_stratum = _numbered(strata)
    added, present = _added(
        array, of_stratum, codes, None if weights is None else np.array(weights)
    )
    # of the mean over all samples
    shares = np.bincount(of_stratum) / len(array)
    parts = [row[mask] * share for row, mask, share in zip(added, present, shares, strict=True)]
    sizes = [len(part) for part in parts]
    if max(sizes) < 2:
        return None, None, None

    def statistic(*means: Array) -> Array:
        return np.asarray(np.sum(np.stack(means), axis=0)[:, 0])

    numbers = draws.resampled(_columns(parts), statistic, 0, RESAMPLES)
    low, high = _percentiles(numbers)
    if _is_one(numbers):
        return _joined_interval(parts, bounds)
    return float(np.std(numbers, ddof=1)), low, high


def bootstrap(values: Sequence[Any], aggregate: Callable[[Sequence[Any]], float | None]) -> Spread:
    """The spread of an aggregation that is no mean, by drawing the samples anew.

    `aggregate` may give None for a draw; where it does so for more than half of them, or the same
    number for all, there is no spread: samples that are all alike do not say how far others differ.
    """

    n = len(values)
    if n < 2:
        return None, None, None
    rng = np.random.default_rng(0)
    every = []
    for _ in range(CELL_RESAMPLES):
        number = aggregate([values[place] for place in rng.integers(0, n, n)])
        every.append(NAN if number is None else number)
    numbers = np.array(every, dtype=float)
    numbers = numbers[np.isfinite(numbers)]
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
def binomial(successes: int, n: int) -> float:
    """The two-sided p-value of so many successes where each is as likely as not, exact."""
    from scipy import stats

    return float(stats.binomtest(successes, n).pvalue)


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


# ---- numbers of many cells -----------------------------------------------------------------------


def mean(scores: Array, codes: Codes | None = None) -> Interval:
    """The mean score [n] of samples that are drawn with those of the same number in `codes` [n],
    with the interval that `clustered_interval` has.
    """
    value, n = float(scores.mean()), len(scores)
    if codes is None and n > 1 and ((scores == 0) | (scores == 1)).all():
        # the same in a tenth of the time, for what most rows of a report are
        return wilson(int(scores.sum()), n)
    clusters = np.arange(n) if codes is None else codes
    ((_, low, high),) = spreads(scores, np.zeros(n, dtype=np.intp), clusters)
    return Interval(value, NAN if low is None else low, NAN if high is None else high, n)


def drawn_ends(numbers: Array) -> tuple[float, float]:
    """The percentile interval of what was drawn; NaN where there is nothing, or where all is alike:
    then it does not say how far others would differ.
    """
    return (NAN, NAN) if not len(numbers) or _is_one(numbers) else _percentiles(numbers)


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


def averaged(parts: Sequence[Interval]) -> Interval:
    """The mean of numbers that are of the same samples, such as those of several seeds, its
    interval as wide as theirs are on average: asking the same again makes nothing surer.
    """
    table = np.array([(part.value, part.low, part.high) for part in parts])
    value, low, high = table.mean(axis=0).tolist()
    return Interval(value, low, high, max(part.n for part in parts))


def parted_ends(
    values: Array, parts: Codes, clusters: Codes, count: int, methods: int
) -> list[tuple[float | None, float | None]]:
    """The ends that `spreads` gives the `count` parts of each of so many methods, whose
    parts are numbered one behind the other; None of a part without values.
    """
    ends: list[tuple[float | None, float | None]] = [(None, None)] * (count * methods)
    owners = parts // count
    # a method's scores have one scale
    scales = _scales(values, owners, methods)
    for bounds in sorted(set(scales)):
        is_own = np.array([scale == bounds for scale in scales])
        mask = is_own[owners]
        if not mask.any():
            continue
        own = spreads(values[mask], parts[mask], clusters[mask], bounds)
        for part in np.unique(parts[mask]).tolist():
            _, low, high = own[part]
            ends[part] = low, high
    return ends


def _scales(values: Array, owners: Codes, methods: int) -> list[Bounds]:
    """Between what the values of each method lie, as far as they show it."""
    least, most = np.zeros(methods), np.zeros(methods)
    np.minimum.at(least, owners, values)
    np.maximum.at(most, owners, values)
    pairs = zip(least.tolist(), most.tolist(), strict=True)
    return [seen_bounds(low, high) for low, high in pairs]


# ---- parts of these -----------------------------------------------------------------------------


def seen_bounds(least: float, most: float) -> Bounds:
    """Between what values lie, as far as the least and the most of them show it."""
    if least < 0:
        return -INFINITY, INFINITY
    return 0.0, 1.0 if most <= 1 else INFINITY


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


def _columns(parts: Sequence[Array]) -> list[Array]:
    """The parts [n] as tables [n, 1]."""
    return [part[:, None] for part in parts]


def _percentiles(values: Array) -> tuple[float, float]:
    low, high = np.quantile(values, [TAIL, (1 + LEVEL) / 2])
    return float(low), float(high)
