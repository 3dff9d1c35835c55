"""Batches: what `statistics` says of one comparison, of many at once.

The draws are the same, for they depend on nothing but how many samples there are; one product of
matrices serves all comparisons of as many. Numbers differ from those of one comparison by the
rounding of sums in another order, if at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from prunebench.study import draws, statistics
from prunebench.study.statistics import (
    FLIPS,
    LEVEL,
    NAN,
    RESAMPLES,
    ROUNDING,
    SAME,
    TAIL,
    Array,
    Difference,
    GroupedPair,
    Interval,
    Pair,
)

Pairs = Sequence[Pair | GroupedPair]
"""Scores of a method and of what it is compared with, a pair a task."""

Ends = tuple[float, float]

Codes = NDArray[np.intp]

TOGETHER = 128
"""Comparisons in one product; more take memory, and save nothing."""

LARGEST = 2_000_000
"""Means of all draws of all tasks in one product."""

LONG = 64
"""Weights of a sign-flip test from which on its signs are kept as bits."""

SEED = 0


def differences(many: Sequence[Pairs]) -> list[Difference]:
    """What `statistics.difference` says of each."""
    gaps = list(map(_gaps, many))
    ends = _ends([_columns(parts) for parts in gaps], _mean_gap)
    tests = _flip_tests(gaps)
    results = []
    for pairs, parts, (low, high), p in zip(many, gaps, ends, tests, strict=True):
        value = float(np.mean([part.mean() for part in parts]))
        n = sum(map(statistics.count, pairs))
        results.append(Difference(value, low, high, n, p))
    return results


def relatives(many: Sequence[Pairs]) -> list[Interval]:
    """What `statistics.relative` says of each."""
    intervals: list[Interval] = []
    places: list[int] = []
    for pairs in many:
        n = sum(map(statistics.count, pairs))
        value = NAN
        if not any(pair[1].mean() == 0 for pair in pairs):
            value = float(np.mean([pair[0].mean() / pair[1].mean() for pair in pairs]))
            places.append(len(intervals))
        intervals.append(Interval(value, NAN, NAN, n))
    both = [list(map(_both, many[place])) for place in places]
    for place, (low, high) in zip(places, _ends(both, _mean_ratio), strict=True):
        intervals[place] = Interval(intervals[place].value, low, high, intervals[place].n)
    return intervals


def means(many: Sequence[Array]) -> list[Interval]:
    """What `statistics.mean` says of each."""
    intervals: list[Interval] = []
    places: list[int] = []
    for scores in many:
        # Wilson's interval needs no draws
        if ((scores == 0.0) | (scores == 1.0)).all():
            intervals.append(statistics.wilson(int(scores.sum()), len(scores)))
            continue
        places.append(len(intervals))
        intervals.append(Interval(float(scores.mean()), NAN, NAN, len(scores)))
    columns = [_columns([many[place]]) for place in places]
    for place, (low, high) in zip(places, _ends(columns, _mean_gap), strict=True):
        intervals[place] = Interval(intervals[place].value, low, high, intervals[place].n)
    return intervals


def parted_ends(
    values: Array, parts: Codes, clusters: Codes, count: int, methods: int
) -> list[tuple[float | None, float | None]]:
    """What `statistics.clustered_ends` says of the `count` parts of each of so many methods, whose
    parts are numbered one behind the other; None of a part without values.
    """
    width = int(clusters.max(initial=0)) + 1
    size = count * methods
    places = parts * width + clusters
    sizes = np.bincount(places, minlength=size * width).reshape(size, width)
    sums = np.bincount(places, weights=values, minlength=size * width).reshape(size, width)
    n, present = sizes.sum(axis=1), sizes > 0
    counts = present.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):  # a part without values has no mean
        averages = sums.sum(axis=1) / n
        residuals = (sums - sizes * averages[:, None]) * (counts / n)[:, None]
        stderr = np.sqrt((residuals**2).sum(axis=1) / ((counts - 1) * counts))
    # a method's scores have one scale
    least, most = _seen_bounds(values, parts // count, methods)
    least, most = np.repeat(least, count), np.repeat(most, count)
    # a residual of rounding is none
    added = np.where(present, (averages[:, None] + residuals).round(12), least[:, None])
    at_most = (added == most[:, None]) & present
    at_bounds = (at_most | (added == least[:, None])).all(axis=1) & np.isfinite(most)
    uneven = np.bincount(parts, np.abs(values - averages[parts]) > SAME, minlength=size)
    ends: list[tuple[float | None, float | None]] = []
    for part, (of, low, high) in enumerate(
        zip(counts.tolist(), least.tolist(), most.tolist(), strict=True)
    ):
        if of < 2 or (stderr[part] < SAME and uneven[part]):
            ends.append((None, None))
        elif at_bounds[part]:
            share = statistics.wilson(int(at_most[part].sum()), of)
            ends.append((low + (high - low) * share.low, low + (high - low) * share.high))
        else:
            half = _quantile(of - 1) * float(stderr[part])
            middle = float(averages[part])
            ends.append((max(low, middle - half), min(high, middle + half)))
    return ends


@cache
def _quantile(freedom: int) -> float:
    """What of Student's distribution with so many degrees of freedom an interval reaches."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 1 - TAIL))


def _seen_bounds(values: Array, methods: Codes, count: int) -> tuple[Array, Array]:
    """[methods] between what a method's values lie, as far as they show it."""
    least, most = np.zeros(count), np.zeros(count)
    np.minimum.at(least, methods, values)
    np.maximum.at(most, methods, values)
    upper = np.where(most <= 1, 1.0, statistics.INFINITY)
    below = least < 0
    low = np.where(below, -statistics.INFINITY, 0.0)
    return low, np.where(below, statistics.INFINITY, upper)


# ---- the bootstrap -------------------------------------------------------------------------------


def _gaps(pairs: Pairs) -> list[Array]:
    return [pair[0] - pair[1] for pair in pairs]


def _both(pair: Pair | GroupedPair) -> Array:
    """[n, 2] the scores of both."""
    return np.column_stack(pair[:2])


def _columns(parts: Iterable[Array]) -> list[Array]:
    return [part[:, None] for part in parts]


def _mean_gap(means: Sequence[Array]) -> Array:
    return _over_tasks([mean[:, :, 0] for mean in means])


def _mean_ratio(means: Sequence[Array]) -> Array:
    # draws in which the reference solves nothing have no ratio
    with np.errstate(divide="ignore", invalid="ignore"):
        return _over_tasks([mean[:, :, 0] / mean[:, :, 1] for mean in means])


def _over_tasks(parts: Sequence[Array]) -> Array:
    """The mean of tables, which need not lie side by side for it."""
    total = parts[0].copy()
    for part in parts[1:]:
        total += part
    total /= len(parts)
    return total


def _ends(
    many: Sequence[Sequence[Array]], number_of: Callable[[Sequence[Array]], Array]
) -> list[Ends]:
    """The percentile interval of a number of parts [n, columns], a part a task, for each of many;
    `number_of` [draws, comparisons] is made of a table [draws, comparisons, columns] of means a
    task. NaN where a task has fewer than two samples.
    """
    ends = [(NAN, NAN)] * len(many)
    by_sizes: dict[tuple[int, ...], list[int]] = {}
    for place, parts in enumerate(many):
        sizes = tuple(map(len, parts))
        if min(sizes) >= 2:
            by_sizes.setdefault(sizes, []).append(place)
    for places in by_sizes.values():
        columns = many[places[0]][0].shape[1]
        most = LARGEST // (RESAMPLES * columns * len(sizes))
        for members in _chunks(places, min(TOGETHER, max(1, most))):
            values = _drawn([many[place] for place in members], number_of)
            for place, own in zip(members, _percentiles(values), strict=True):
                ends[place] = own
    return ends


def _drawn(many: Sequence[Sequence[Array]], number_of: Callable[[Sequence[Array]], Array]) -> Array:
    """[draws, comparisons] the number of every draw, of parts of the same sizes."""
    tables = [np.concatenate(of_task, axis=1) for of_task in zip(*many, strict=True)]
    numbers: list[Array] = []

    def statistic(*means: Array) -> Array:
        of_each = [mean.reshape(len(mean), len(many), -1) for mean in means]
        numbers.append(number_of(of_each))
        return np.zeros(len(means[0]))

    draws.resampled(tables, statistic, SEED, RESAMPLES)
    return np.concatenate(numbers)


def _percentiles(values: Array) -> list[Ends]:
    """The ends of the interval of every column, over the draws that have a value."""
    present = np.isfinite(values)
    shares = [TAIL, (1 + LEVEL) / 2]
    if present.all():
        low, high = np.quantile(values, shares, axis=0)
        return list(zip(low.tolist(), high.tolist(), strict=True))
    ends = []
    for column, mask in zip(values.T, present.T, strict=True):
        low, high = np.quantile(column[mask], shares)
        ends.append((float(low), float(high)))
    return ends


def _chunks(places: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(places), size):
        yield places[start : start + size]


# ---- the sign-flip test --------------------------------------------------------------------------


def _flip_tests(many: Sequence[Sequence[Array]]) -> list[float]:
    """Two-sided p-values of differences, a part [n] a task: exact where all have one size
    (McNemar's exact test).
    """
    p_values = [1.0] * len(many)
    by_count: dict[int, list[tuple[int, Array]]] = {}
    for place, parts in enumerate(many):
        # divided by the task's samples, so that the sum is the mean over tasks
        weights = np.concatenate([part / len(part) for part in parts])
        # a difference of zero is the same under either sign
        weights = weights[weights != 0]
        if not len(weights):
            continue
        sizes = np.abs(weights)
        # as `numpy.allclose` has it, which takes longer than the test
        if (np.abs(sizes - sizes[0]) <= 1e-8 + 1e-5 * sizes[0]).all():
            p_values[place] = statistics.binomial(int((weights > 0).sum()), len(weights))
            continue
        by_count.setdefault(len(weights), []).append((place, weights))
    for count, members in by_count.items():
        step = 1 if count > LONG else TOGETHER
        for start in range(0, len(members), step):
            places, own = zip(*members[start : start + step], strict=True)
            for place, p in zip(places, _flip_test(np.stack(own)), strict=True):
                p_values[place] = p
    return p_values


def _flip_test(weights: Array) -> list[float]:
    """The p-values of tests [tests, weights]."""
    if weights.shape[1] > LONG:
        sums, exact = _long_sums(weights[0])[:, None], False
    else:
        sums, exact = draws.flipped(weights.T, FLIPS, SEED)
    observed = weights.sum(axis=1)
    # sums that are the same but for rounding are the same, those that are nothing as well
    slack = ROUNDING * np.abs(weights).sum(axis=1)
    below = (sums <= observed + slack).sum(axis=0)
    above = (sums >= observed - slack).sum(axis=0)
    # of patterns that were drawn, the one that was seen is one more
    more = 0 if exact else 1
    p = 2 * (np.minimum(below, above) + more) / (len(sums) + more)
    return [float(value) for value in np.minimum(1.0, p)]


def _long_sums(weights: Array) -> Array:
    """[patterns] what `draws.flipped` gives, of so many weights that their signs as numbers would
    take longer to write down than to draw: eight signs are a byte, whose sum stands in a table.
    """
    count = len(weights)
    padded = np.zeros(-(-count // 8) * 8)
    padded[:count] = weights
    # [bytes, 256]
    table = padded.reshape(-1, 8) @ _signs_of_bytes().T
    rng = np.random.default_rng(SEED)
    step = min(FLIPS, max(1, draws.BATCH // count))
    parts = []
    for start in range(0, FLIPS, step):
        rows = min(step, FLIPS - start)
        own = _bytes_of_signs(rng, rows, count)
        sums = np.zeros(rows)
        for column, of_byte in zip(own, table, strict=True):
            sums += of_byte[column]
        parts.append(sums)
    return np.concatenate(parts)


def _bytes_of_signs(rng: np.random.Generator, rows: int, count: int) -> NDArray[np.uint8]:
    """[bytes, rows] patterns of signs, drawn as `draws` draws them; a set bit is a minus."""
    size = rows * count
    content = np.frombuffer(rng.bytes(-(-size // 8)), dtype=np.uint8)
    if count % 8 == 0:
        return np.ascontiguousarray(content.reshape(rows, -1).T)
    bits = np.unpackbits(content, count=size).reshape(rows, count)
    return np.ascontiguousarray(np.packbits(bits, axis=1).T)


def _signs_of_bytes() -> Array:
    """[256, 8] the signs that each byte stands for."""
    every = np.arange(256, dtype=np.uint8)[:, None]
    return 1.0 - 2.0 * np.unpackbits(every, axis=1)
