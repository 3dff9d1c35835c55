"""Methods against each other: known answers, the level of the tests, and what is corrected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from prunebench.study import pairwise
from prunebench.study.pairwise import Comparison, Sheet
from prunebench.study.statistics import RESAMPLES, TAIL, Array

REPEATS = 100


def sheet(clusters: Sequence[int] | None = None, **scores: Any) -> Sheet[str]:
    """A task; scores of one seed may be a plain list."""
    tables = {name: np.atleast_2d(np.asarray(values, float).T).T for name, values in scores.items()}
    count = len(next(iter(tables.values())))
    return Sheet(np.asarray(clusters if clusters is not None else range(count)), tables)


def compared(*sheets: Sheet[str]) -> Comparison:
    (comparison,) = pairwise.compare(sheets, [("a", "b")])
    assert comparison is not None
    return comparison


def nine_to_one() -> tuple[Array, Array]:
    method, other = np.zeros(100), np.zeros(100)
    method[:9] = 1
    other[9] = 1
    return method, other


def test_right_and_wrong_are_compared_by_mcnemar() -> None:
    """Nine wins and one loss: p is 2 (1 + 10) / 2^10."""
    method, other = nine_to_one()
    gap = compared(sheet(a=method, b=other))
    assert (gap.test, gap.wins, gap.losses, gap.n) == ("mcnemar", 9, 1, 100)
    assert gap.value == pytest.approx(0.08)
    assert gap.p == pytest.approx(22 / 1024)
    normal = 1.96 * np.std(method - other) / 10
    assert (gap.low, gap.high) == pytest.approx((0.08 - normal, 0.08 + normal), abs=0.015)
    # (1.96 + 0.84) standard errors of eleven discordant among 102
    assert gap.smallest == pytest.approx(2.8016 * 11**0.5 / 102, rel=1e-3)
    assert compared(sheet(a=method, b=other)) == gap, "it is seeded"


def test_a_sample_without_a_difference_says_what_it_would_have_shown() -> None:
    gap = compared(sheet(a=[1.0] * 50, b=[1.0] * 50))
    assert (gap.value, gap.p) == (0, 1)
    assert np.isnan(gap.low), "samples that are all alike do not say how far others differ"
    assert gap.smallest == pytest.approx(2.8016 / 52, rel=1e-3)


def test_questions_of_one_image_are_drawn_together() -> None:
    """Five images of ten questions, each lost as a whole, are five signs and not fifty."""
    images = [number // 10 for number in range(50)]
    alone = compared(sheet(a=[0.0] * 50, b=[1.0] * 50))
    together = compared(sheet(images, a=[0.0] * 50, b=[1.0] * 50))
    assert alone.p < 1e-9
    assert (together.test, together.clusters) == ("bootstrap", 5)
    assert together.p == pytest.approx(2 / 2**5)


def test_the_level_holds_where_questions_share_images() -> None:
    """Without a difference one test of twenty says that there is one; McNemar's says so far more
    often where six questions of an image are answered alike.
    """
    images = np.repeat(np.arange(40), 6)
    wrong_alarms = {"clustered": 0, "alone": 0}
    for seed in range(REPEATS):
        rng = np.random.default_rng(seed)
        one, other = (np.repeat(rng.random(40) < 0.5, 6).astype(float) for _ in range(2))
        wrong_alarms["clustered"] += compared(sheet(list(images), a=one, b=other)).p < 0.05
        wrong_alarms["alone"] += compared(sheet(a=one, b=other)).p < 0.05
    assert wrong_alarms["clustered"] <= 0.09 * REPEATS
    assert wrong_alarms["alone"] >= 0.3 * REPEATS


def test_seeds_are_a_level_of_their_own() -> None:
    """A method whose seeds differ by more than its questions do is not better for three lucky
    ones.
    """
    wrong_alarms = {"drawn": 0, "averaged": 0}
    for seed in range(REPEATS):
        rng = np.random.default_rng(seed)
        of_seed = rng.normal(0, 0.15, 3)
        method = (rng.random((150, 3)) < 0.5 + of_seed).astype(float)
        other = (rng.random(150) < 0.5).astype(float)
        wrong_alarms["drawn"] += compared(sheet(a=method, b=other)).p < 0.05
        wrong_alarms["averaged"] += compared(sheet(a=method.mean(axis=1), b=other)).p < 0.05
    assert wrong_alarms["drawn"] <= 0.1 * REPEATS
    assert wrong_alarms["averaged"] >= 0.2 * REPEATS


def test_a_method_that_gives_the_same_for_every_seed_has_one() -> None:
    method, other = nine_to_one()
    thrice = np.stack([method] * 3, axis=1)
    assert compared(sheet(a=thrice, b=other)) == compared(sheet(a=method, b=other))


@pytest.mark.parametrize("count", [3, 7, 40])
def test_the_interval_is_numpys(count: int) -> None:
    method, other = np.random.default_rng(count).random((2, count))
    comparison = compared(sheet(a=method, b=other))
    picks = np.random.default_rng(0).integers(0, count, (RESAMPLES, count))
    draws = (method - other)[picks].mean(axis=1)
    expected = np.quantile(draws, [TAIL, 1 - TAIL])
    assert (comparison.low, comparison.high) == pytest.approx(tuple(expected), rel=1e-9)


def test_tasks_count_alike() -> None:
    big = sheet(a=[1.0] * 100, b=[0.0] * 100)
    small = sheet(a=[0.0, 1.0, 0.0, 1.0], b=[0.0, 1.0, 0.0, 1.0])
    gap = compared(big, small)
    assert gap.value == pytest.approx(0.5)
    assert (gap.n, gap.test) == (104, "bootstrap")


def test_only_what_both_answered_counts() -> None:
    gap = compared(sheet(a=[1, 1, np.nan, 0], b=[0, 1, 1, np.nan]))
    assert (gap.n, gap.value) == (2, 0.5)
    nothing = sheet(a=[1, np.nan], b=[np.nan, 1])
    assert pairwise.compare([nothing], [("a", "b")]) == [None]


def test_graded_scores_agree_with_students_test() -> None:
    from scipy import stats

    rng = np.random.default_rng(3)
    one = rng.random(200)
    other = one - rng.normal(0.02, 0.15, 200)
    gap = compared(sheet(a=one, b=other))
    assert gap.p == pytest.approx(float(stats.ttest_rel(one, other).pvalue), rel=0.15)


def test_holms_correction_equals_that_of_statsmodels() -> None:
    from statsmodels.stats.multitest import multipletests

    values = [0.04, 0.001, 0.03, 0.9, 0.001, 0.013]
    expected = multipletests(values, method="holm")[1]
    assert pairwise.holm(values) == pytest.approx(list(expected))
    assert pairwise.holm([]) == []


@pytest.mark.parametrize(
    ("value", "p", "up", "word"),
    [
        (0.1, 0.01, True, "better"),
        (-0.1, 0.01, True, "worse"),
        (0.1, 0.01, False, "worse"),
        (0.1, 0.06, True, "no difference shown"),
        (0.0, 0.0, True, "no difference shown"),
    ],
)
def test_three_marks(value: float, p: float, up: bool, word: str) -> None:
    assert pairwise.mark(value, p, up) == word
