"""Intervals: the uncertainty of a mean, or of any aggregation, over samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import sqrt
from typing import Any

import numpy as np
from scipy.special import ndtri, stdtrit

Z = float(ndtri(0.975))
RESAMPLES = 400


def mean_interval(values: Sequence[float]) -> tuple[float | None, float | None, float | None]:
    """(standard error, low, high) of the mean at 95 %: Wilson's for values of 0 and 1, Student's
    for others.
    """
    n = len(values)
    if n < 2:
        return None, None, None
    array = np.asarray(values, dtype=float)
    mean, stderr = float(array.mean()), float(array.std(ddof=1)) / sqrt(n)
    if set(array.tolist()) <= {0.0, 1.0}:
        return stderr, *_wilson(mean, n)
    half = float(stdtrit(n - 1, 0.975)) * stderr
    low, high = mean - half, mean + half
    if array.min() >= 0 and array.max() <= 1:  # shares and scores
        low, high = max(0.0, low), min(1.0, high)
    return stderr, low, high


def bootstrap(
    values: Sequence[Any], aggregate: Callable[[Sequence[Any]], float | None]
) -> tuple[float | None, float | None, float | None]:
    """The same of an aggregation that is no mean, by resampling the samples; seeded, so that it
    comes out the same twice.
    """
    rng = np.random.default_rng(0)
    n = len(values)
    if n < 2:
        return None, None, None
    found = [aggregate([values[i] for i in rng.integers(0, n, n)]) for _ in range(RESAMPLES)]
    numbers = [number for number in found if number is not None and number == number]
    if len(numbers) < RESAMPLES / 2:
        return None, None, None
    low, high = np.quantile(numbers, [0.025, 0.975])
    return float(np.std(numbers, ddof=1)), float(low), float(high)


def _wilson(share: float, n: int) -> tuple[float, float]:
    middle = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    return max(0.0, middle - half), min(1.0, middle + half)
