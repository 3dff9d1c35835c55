"""Draws: what the bootstrap and the sign-flip test draw, kept for the next number of as many
samples, for every seeded draw of one size is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache, lru_cache
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
Statistic = Callable[..., Array]
"""From an array [draws, columns] of means per task to the number of every draw [draws]."""

BATCH = 2_000_000
"""Places drawn at a time, so that large tasks fit in memory; draws of more are not kept."""

KEPT = 8
"""Sizes whose draws are kept, the ones that were used last."""

KEPT_SIGNS = 64
"""Sizes whose signs are kept; as many as a task has samples that differ, which is another number in
every row.
"""


def resampled(
    parts: Sequence[Array], statistic: Statistic, seed: int, resamples: int, batch: int = BATCH
) -> Array:
    """The statistic of the means of samples [n, columns] that are drawn with replacement within
    each task, [draws]; a part a task.

    Draws without a value, such as a ratio to a reference that solved nothing, are left out.
    """
    numbers = [statistic(*means) for means in drawn_means(parts, seed, resamples, batch)]
    values = np.concatenate(numbers)
    return np.asarray(values[np.isfinite(values)])


def drawn_means(
    parts: Sequence[Array], seed: int, resamples: int, batch: int = BATCH
) -> Iterator[list[Array]]:
    """The means [draws, columns] of samples [n, columns] that are drawn with replacement within
    each task, some draws at a time; a part a task.
    """
    sizes = tuple(len(part) for part in parts)
    for times in _times(sizes, seed, resamples, batch):
        pairs = zip(times, parts, strict=True)
        yield [counts @ part / len(part) for counts, part in pairs]


def flipped(weights: Array, flips: int, seed: int) -> tuple[Array, bool]:
    """The sums of `weights` [n] or [n, tests] under patterns of signs, [patterns] or [patterns,
    tests], and whether these are all that there are; else `flips` random ones.
    """
    count = len(weights)
    if 2**count <= flips:
        return np.asarray(_every_sign(count) @ weights), True
    step = max(1, BATCH // count)
    if step >= flips:
        return np.asarray(_kept_signs(count, flips, seed) @ weights), False
    rng = np.random.default_rng(seed)
    sums = []
    for start in range(0, flips, step):
        signs = _drawn_signs(rng, min(step, flips - start), count)
        sums.append(signs @ weights)
    return np.concatenate(sums), False


def flipped_long(weights: Array, flips: int, seed: int) -> Array:
    """[patterns, tests] what `flipped` gives, of so many `weights` [n, tests] that their signs as
    numbers would take longer to write down than to draw: eight signs are a byte, whose sum stands
    in a table.
    """
    count, tests = weights.shape
    padded = np.zeros((-(-count // 8) * 8, tests))
    padded[:count] = weights
    # [bytes, 256, tests]
    table = np.tensordot(_signs_of_bytes(), padded.reshape(-1, 8, tests), (1, 1)).swapaxes(0, 1)
    rng = np.random.default_rng(seed)
    step = min(flips, max(1, BATCH // count))
    parts = []
    for start in range(0, flips, step):
        rows = min(step, flips - start)
        sums = np.zeros((rows, tests))
        for column, of_byte in zip(_bytes_of_signs(rng, rows, count), table, strict=True):
            sums += of_byte[column]
        parts.append(sums)
    return np.concatenate(parts)


def _times(
    sizes: tuple[int, ...], seed: int, resamples: int, batch: int
) -> Iterator[tuple[Array, ...]]:
    """How often every sample of every task is drawn, [draws, n] a task, some draws at a time."""
    step = max(1, min(resamples, batch // max(sizes)))
    if step == resamples and sum(sizes) * resamples <= batch:
        yield _kept_times(sizes, seed, resamples)
        return
    rng = np.random.default_rng(seed)
    for start in range(0, resamples, step):
        # one at a time, for those of many tasks together are large
        yield tuple(_counts(rng, min(step, resamples - start), size) for size in sizes)


@lru_cache(maxsize=KEPT)
def _kept_times(sizes: tuple[int, ...], seed: int, resamples: int) -> tuple[Array, ...]:
    rng = np.random.default_rng(seed)
    return tuple(_counts(rng, resamples, size) for size in sizes)


def _counts(rng: np.random.Generator, draws: int, size: int) -> Array:
    """[draws, size] how often each of `size` samples is in each draw of as many."""
    picks = rng.integers(0, size, (draws, size))
    picks += np.arange(draws)[:, None] * size
    counts = np.bincount(picks.ravel(), minlength=draws * size)
    return counts.reshape(draws, size).astype(float)


@lru_cache(maxsize=KEPT)
def _every_sign(count: int) -> Array:
    """[2^count, count] every pattern."""
    return np.array(list(product((1.0, -1.0), repeat=count)))


@lru_cache(maxsize=KEPT_SIGNS)
def _kept_signs(count: int, flips: int, seed: int) -> NDArray[np.int8]:
    return _drawn_signs(np.random.default_rng(seed), flips, count)


def _drawn_signs(rng: np.random.Generator, flips: int, count: int) -> NDArray[np.int8]:
    """[flips, count] patterns of which every sign is as likely as the other: a bit each."""
    size = flips * count
    bits = np.unpackbits(np.frombuffer(rng.bytes(-(-size // 8)), dtype=np.uint8), count=size)
    return np.asarray(1 - 2 * bits.astype(np.int8)).reshape(flips, count)


def _bytes_of_signs(rng: np.random.Generator, rows: int, count: int) -> NDArray[np.uint8]:
    """[bytes, rows] patterns of signs, drawn as `_drawn_signs` draws them; a set bit is a minus."""
    size = rows * count
    content = np.frombuffer(rng.bytes(-(-size // 8)), dtype=np.uint8)
    if count % 8 == 0:
        return np.ascontiguousarray(content.reshape(rows, -1).T)
    bits = np.unpackbits(content, count=size).reshape(rows, count)
    return np.ascontiguousarray(np.packbits(bits, axis=1).T)


@cache
def _signs_of_bytes() -> Array:
    """[256, 8] the signs that each byte stands for."""
    every = np.arange(256, dtype=np.uint8)[:, None]
    return 1.0 - 2.0 * np.unpackbits(every, axis=1)
