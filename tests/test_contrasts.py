"""Many comparisons at once are what each of them is alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from prunebench.study import contrasts, statistics
from prunebench.study.contrasts import GroupedPair

SIZES = ((25,), (25,), (25,), (7,), (1,), (25, 12), (25, 12), (300, 200), (3000,))


def pairs_of(sizes: tuple[int, ...], seed: int) -> list[Any]:
    """Scores of three seeds each, on tasks of these sizes."""
    rng = np.random.default_rng(seed)
    pairs = []
    for size in sizes:
        method, reference = (rng.binomial(3, share, size) / 3 for share in (0.5, 0.6))
        pairs.append((method, reference))
    return pairs


MANY = [pairs_of(sizes, number) for number, sizes in enumerate(SIZES)]
GROUPED = [GroupedPair(np.array([1.5, 0.7]), np.array([0.6, 0.9]), np.array([3.0, 1.0]))]
MORE_GROUPED = [GroupedPair(np.array([2.5, 0.7]), np.array([0.6, 1.9]), np.array([4.0, 2.0]))]
MIXED = [
    *pairs_of((25,), 50),
    GroupedPair(np.linspace(0, 1, 80), np.linspace(0.9, 0, 80), np.ones(80)),
]
ALIKE = [(np.full(9, 0.75), np.full(9, 0.5))]


def numbers_of(interval: statistics.Interval) -> list[float]:
    return [interval.value, interval.low, interval.high, interval.n]


def test_differences_are_those_of_each_alone() -> None:
    many = [*MANY, GROUPED, MIXED, MORE_GROUPED, ALIKE]
    alone = [contrasts.difference(pairs) for pairs in many]
    together = contrasts.differences(many)
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(numbers_of(other), numbers_of(one), rtol=1e-12, atol=1e-14)
        assert other.p == pytest.approx(one.p, rel=1e-12)
    assert len({one.p for one in alone}) > 5
    assert np.isnan(together[-1].low)


def test_a_test_of_the_smallest_patterns_is_exact_here_too() -> None:
    pair = (np.array([1.0, 0.5, 1.0]), np.array([0.0, 0.0, 0.5]))
    assert contrasts.differences([[pair]])[0].p == contrasts.difference([pair]).p == 0.25


def test_no_difference_at_all_has_p_one() -> None:
    same = np.ones(9)
    assert contrasts.differences([[(same, same)]])[0].p == 1.0


def test_relatives_are_those_of_each_alone() -> None:
    none_right = [(np.ones(9), np.zeros(9))]
    hardly_right = [(np.ones(4), np.array([1.0, 0.0, 0.0, 0.0]))]
    many = [*MANY, none_right, hardly_right, ALIKE, MIXED, MORE_GROUPED, GROUPED]
    alone = [numbers_of(contrasts.relative(pairs)) for pairs in many]
    together = [numbers_of(interval) for interval in contrasts.relatives(many)]
    np.testing.assert_allclose(together, alone, rtol=1e-12)
    assert np.isnan(together[len(MANY)][0])
    assert together[-1][-1] == 4


@pytest.mark.parametrize("scale", [1.0, 100.0, -1.0])
def test_parts_of_methods_have_the_ends_of_each_method_alone(scale: float) -> None:
    rng = np.random.default_rng(0)
    methods, count, n = 4, 3, 60
    owners, codes = np.repeat(np.arange(methods), n), rng.integers(0, count, methods * n)
    clusters = rng.integers(0, 20, methods * n)
    # one method right or wrong, one always right, others between
    values = np.where(owners == 0, rng.integers(0, 2, methods * n), rng.random(methods * n))
    values = scale * np.where(owners == 1, 1.0, values)
    together = statistics.parted_ends(values, codes + count * owners, clusters, count, methods)
    for method in range(methods):
        own = owners == method
        alone = [ends for _, *ends in statistics.spreads(values[own], codes[own], clusters[own])]
        np.testing.assert_allclose(
            np.array(together[count * method :][:count], dtype=float),
            np.array(alone, dtype=float),
            rtol=1e-12,
        )


def test_a_part_without_values_has_no_ends() -> None:
    values, parts = np.array([0.5, 1.0]), np.array([0, 0])
    ends = statistics.parted_ends(values, parts, np.array([0, 1]), 1, 2)
    assert ends[0] != (None, None) == ends[1]
