"""Batches: what `statistics` says of one comparison, of many at once.

The draws are the same, for they depend on nothing but how many samples there are; one product of
matrices serves all comparisons of as many. Numbers differ from those of one comparison by the
rounding of sums in another order, if at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

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
    Bounds,
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
    results: list[Difference | None] = []
    places: list[int] = []
    for place, pairs in enumerate(many):
        grouped = _is_grouped(pairs)
        results.append(statistics.difference(pairs) if grouped else None)
        places += [] if grouped else [place]
    gaps = [_gaps(many[place]) for place in places]
    ends = _ends([_columns(parts) for parts in gaps], _mean_gap)
    tests = _flip_tests(gaps)
    for place, parts, (low, high), p in zip(places, gaps, ends, tests, strict=True):
        value = float(np.mean([part.mean() for part in parts]))
        results[place] = Difference(value, low, high, sum(map(len, parts)), p)
    return [result for result in results if result is not None]


def relatives(many: Sequence[Pairs]) -> list[Interval]:
    """What `statistics.relative` says of each."""
    results: list[Interval | None] = []
    places: list[int] = []
    for place, pairs in enumerate(many):
        # groups are of different sizes, and a reference that scores nothing has no ratio
        alone = _is_grouped(pairs) or any(pair[1].mean() == 0 for pair in pairs)
        results.append(statistics.relative(pairs) if alone else None)
        places += [] if alone else [place]
    both = [list(map(_both, many[place])) for place in places]
    for place, (low, high) in zip(places, _ends(both, _mean_ratio), strict=True):
        pairs = many[place]
        value = float(np.mean([pair[0].mean() / pair[1].mean() for pair in pairs]))
        results[place] = Interval(value, low, high, sum(map(statistics.count, pairs)))
    return [result for result in results if result is not None]


def _is_grouped(pairs: Pairs) -> bool:
    """Whether some of the scores are sums of samples that are drawn together, which is rare."""
    return any(isinstance(pair, GroupedPair) for pair in pairs)


def parted_ends(
    values: Array, parts: Codes, clusters: Codes, count: int, methods: int
) -> list[tuple[float | None, float | None]]:
    """The ends that `statistics.spreads` gives the `count` parts of each of so many methods, whose
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
        own = statistics.spreads(values[mask], parts[mask], clusters[mask], bounds)
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
    return [statistics.seen_bounds(low, high) for low, high in pairs]


# ---- the bootstrap -------------------------------------------------------------------------------


def _gaps(pairs: Pairs) -> list[Array]:
    """[n] method less reference, a task each."""
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
    """What `statistics.drawn_ends` gives every column, over the draws that have a value."""
    present = np.isfinite(values)
    if not present.all():
        pairs = zip(values.T, present.T, strict=True)
        return [statistics.drawn_ends(column[mask]) for column, mask in pairs]
    low, high = np.quantile(values, [TAIL, (1 + LEVEL) / 2], axis=0)
    is_one = np.isclose(values.min(axis=0), values.max(axis=0), rtol=SAME, atol=SAME)
    low[is_one] = high[is_one] = NAN
    return list(zip(low.tolist(), high.tolist(), strict=True))


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
