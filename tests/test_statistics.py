"""Statistics with known answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from prunebench.study import contrasts, statistics
from prunebench.study.statistics import Interval


@pytest.mark.parametrize(("successes", "n"), [(0, 1), (1, 1), (0, 7), (3, 10), (499, 500)])
def test_wilson_is_scipys(successes: int, n: int) -> None:
    """Written out, for scipy.stats takes a second to import."""
    share = statistics.wilson(successes, n)
    ends = stats.binomtest(successes, n).proportion_ci(0.95, method="wilson")
    assert (share.low, share.high) == pytest.approx((ends.low, ends.high), abs=1e-12)


def test_wilson_known_answer() -> None:
    """Wilson (1927) for 8 of 10."""
    share = statistics.wilson(8, 10)
    assert share.value == pytest.approx(0.8)
    assert ends(share) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)
    assert statistics.wilson(10, 10).high == pytest.approx(1.0)
    with pytest.raises(ValueError, match="11 successes of 10"):
        statistics.wilson(11, 10)


def test_difference_known_answer() -> None:
    """Nine wins and one loss among 100: McNemar's exact p is 2 (1 + 10) / 2^10, the interval close
    to the normal one.
    """
    method = np.zeros(100)
    method[:9] = 1
    reference = np.zeros(100)
    reference[9] = 1
    gap = contrasts.difference([(method, reference)])
    assert gap.value == pytest.approx(0.08)
    assert gap.n == 100
    assert gap.p == pytest.approx(22 / 1024)
    normal = 1.96 * np.std(method - reference) / 10
    assert ends(gap) == pytest.approx((0.08 - normal, 0.08 + normal), abs=0.015)
    assert gap.sure
    assert contrasts.difference([(method, reference)]) == gap, "it is seeded"


def test_difference_of_graded_scores_is_tested_by_flipping_signs() -> None:
    """[3, 1, 2] less zeros: of eight sign patterns two are as extreme."""
    gap = contrasts.difference([(np.array([3.0, 1.0, 2.0]), np.zeros(3))])
    assert gap.value == pytest.approx(2.0)
    assert gap.p == pytest.approx(2 / 8)
    assert not gap.sure


def test_no_difference() -> None:
    scores = np.array([1.0, 0.0, 1.0])
    gap = contrasts.difference([(scores, scores)])
    assert (gap.value, gap.p) == (0, 1)
    assert np.isnan(ends(gap)).all(), "equal answers do not say how far others would differ"
    assert not gap.sure


def test_equal_differences_are_judged_by_the_test_alone() -> None:
    """Lost every time: no draw says how far others differ, but no coin falls so twenty times."""
    gap = contrasts.difference([(np.zeros(20), np.ones(20))])
    assert gap.value == -1
    assert gap.p == pytest.approx(2 / 2**20)
    assert np.isnan(ends(gap)).all()
    assert gap.sure


def test_tasks_count_alike() -> None:
    big = np.ones(100), np.zeros(100)
    small = np.zeros(4), np.zeros(4)
    assert contrasts.difference([big, small]).value == pytest.approx(0.5)


def test_relative_known_answer() -> None:
    """Half of what the reference solves, whichever samples are drawn: the mean is a half, the
    interval holds it.
    """
    method = np.tile([1.0, 0.0], 50)
    reference = np.ones(100)
    ratio = contrasts.relative([(method, reference)])
    assert ratio.value == pytest.approx(0.5)
    assert ends(ratio) == pytest.approx((0.4, 0.6), abs=0.02)
    same = contrasts.relative([(reference, reference)])
    assert same.value == 1
    assert np.isnan(ends(same)).all()
    to_nothing = contrasts.relative([(method, np.zeros(100))])
    assert np.isnan(to_nothing.value)


def test_intervals_cover_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(100):
        method = (rng.random(120) < 0.7).astype(float)
        reference = (rng.random(120) < 0.5).astype(float)
        gap = contrasts.difference([(method, reference)], seed)
        hits += gap.low <= 0.2 <= gap.high
    assert 88 <= hits <= 100


def test_pooling_independent_numbers() -> None:
    part = statistics.Interval(0.5, 0.4, 0.7, 10)
    pooled = statistics.pool([part] * 4)
    assert (pooled.value, pooled.n) == (0.5, 40)
    assert ends(pooled) == pytest.approx((0.45, 0.6))


def test_join_refuses_different_samples() -> None:
    left = pd.Series([1.0, 2.0], index=["a", "b"])
    turned = pd.Series([4.0, 3.0], index=["b", "a"])
    method, reference = contrasts.join(left, turned)
    assert method.tolist() == [1, 2]
    assert reference.tolist() == [3, 4]
    method, reference = contrasts.join(left, left.iloc[:1])
    assert method.tolist() == reference.tolist() == [1]
    other = pd.Series([1.0, 2.0], index=["a", "c"])
    mismatch = r"2 stand in only one of the two, such as 'b'"
    with pytest.raises(contrasts.SampleMismatch, match=mismatch):
        contrasts.join(left, other)
    method, _ = contrasts.join(left, other, total=3)
    assert len(method) == 1


def test_a_ratio_that_some_draws_lack_has_an_interval_of_the_others() -> None:
    """Of four samples the reference solves one: a third of the draws miss it."""
    method, reference = np.ones(4), np.array([1.0, 0.0, 0.0, 0.0])
    low, high = ends(contrasts.relative([(method, reference)]))
    assert low == pytest.approx(4 / 3, abs=0.4)
    assert high == 4


def test_an_aggregation_that_most_draws_lack_has_no_spread() -> None:
    def only_whole(draw: Sequence[int]) -> float | None:
        return 1.0 if set(draw) == {0, 1, 2, 3} else None

    assert statistics.bootstrap(range(4), only_whole) == (None, None, None)


def ends(interval: Interval) -> tuple[float, float]:
    return interval.low, interval.high


SCORES, GROUPS = [1.0, 0.0, 1.0, 1.0, 0.0, 0.5, 0.5], list("abacccb")


def test_the_spread_of_groups_is_that_of_a_ratio() -> None:
    """Cochran's, by a plain loop: groups vary by what theirs differ from the mean in sum."""
    middle = sum(SCORES) / len(SCORES)
    squares = 0.0
    for name in "abc":
        gaps = [score - middle for score, own in zip(SCORES, GROUPS, strict=True) if own == name]
        squares += sum(gaps) ** 2
    stderr = (squares * 3 / 2) ** 0.5 / len(SCORES)
    spread = statistics.clustered_interval(SCORES, GROUPS)
    half = stats.t.ppf(0.975, 2) * stderr
    assert spread == pytest.approx((stderr, max(0.0, middle - half), min(1.0, middle + half)))


def test_the_spread_of_single_samples_is_students() -> None:
    test = stats.ttest_1samp(SCORES, 0.0).confidence_interval(0.95)
    _, low, high = statistics.mean_interval(SCORES)
    assert (low, high) == pytest.approx((test.low, min(1.0, test.high)))


@pytest.mark.parametrize("scores", [[1.0, 0, 1, 1, 0], [1.0] * 5, [0.0] * 5, [0.5, 1, 1, 0, 0]])
def test_a_mean_score_has_the_interval_of_a_cell(scores: list[float]) -> None:
    _, low, high = statistics.mean_interval(scores)
    assert ends(statistics.mean(np.array(scores))) == pytest.approx((low, high))


@pytest.mark.parametrize("scores", [[1.0] * 6, [0.0] * 6])
def test_groups_of_many_sizes_that_are_all_right_or_all_wrong_are_alike(
    scores: list[float],
) -> None:
    """That one image has three questions and another one is no spread of the answers."""
    share = statistics.wilson(3 * int(scores[0]), 3)
    spread = statistics.clustered_interval(scores, list("abbbcc"))
    assert spread == pytest.approx((0.0, share.low, share.high))


@pytest.mark.parametrize(
    ("scores", "groups"),
    [([0.5] * 8, None), ([64.0] * 8, None), ([1.0, 0.0] * 4, list("aabbccdd"))],
)
def test_what_is_alike_and_on_no_bound_has_no_interval(
    scores: list[float], groups: list[str] | None
) -> None:
    assert statistics.clustered_interval(scores, groups) == (None, None, None)


def test_a_group_may_count_as_one_whatever_its_size() -> None:
    """The mean over three groups of their shares, of which a sample is half, or the whole."""
    shares, sizes = {"a": 1.0, "b": 0.5, "c": 0.0}, {"a": 2, "b": 1, "c": 2}
    groups = list("aabcc")
    scores = [shares[name] / sizes[name] * len(groups) / 3 for name in groups]
    weights = [1 / sizes[name] for name in groups]
    own = statistics.clustered_interval(scores, groups, (0.0, 1.0), weights)
    assert own == pytest.approx(statistics.mean_interval(list(shares.values()), (0.0, 1.0)))


def test_intervals_of_groups_of_many_sizes_hold_the_mean_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    hits, trials = 0, 400
    for _ in range(trials):
        sizes = rng.integers(1, 9, 60)
        codes = np.repeat(np.arange(60), sizes)
        shares = rng.beta(3.2, 0.8, 60)  # mean 0.8
        scores = (rng.random(len(codes)) < shares[codes]).astype(float)
        _, low, high = statistics.clustered_interval(scores.tolist(), codes.tolist())
        assert low is not None
        assert high is not None
        hits += low <= 0.8 <= high
    assert 0.92 <= hits / trials <= 0.98


def test_a_paired_difference_of_groups_varies_by_what_they_differ() -> None:
    """One in two is lost of every image, of one question or of ten: all images are alike."""
    sizes = np.array([2.0, 4, 2, 10, 2, 6])
    pair = contrasts.GroupedPair(sizes / 2, sizes, sizes)
    gap = contrasts.difference([pair])
    assert (gap.value, gap.n) == (-0.5, 26)
    assert np.isnan(ends(gap)).all()
    assert contrasts.paired_differences(pair) == pytest.approx([-0.5] * 6)


def test_a_pair_of_groups_speaks_for_its_samples() -> None:
    method, reference = np.array([0.0, 2.0, 2.0]), np.array([2.0, 2.0, 2.0])
    pair = contrasts.GroupedPair(method, reference, np.full(3, 2.0))
    gap = contrasts.difference([pair])
    assert gap.value == pytest.approx(-1 / 3)
    assert gap.n == 6
    ratio = contrasts.relative([pair])
    assert ratio.value == pytest.approx(2 / 3)
    assert ratio.n == 6


@pytest.mark.parametrize(
    ("mean", "value", "is_same"),
    [
        (1 / 3, 0.33333, True),
        (1 / 3, 1 / 3, True),
        (1 / 3, 0.3334, False),
        (33.3333, 33.33, True),
        (33.3333, 33.3, False),
        (0.5, 0.5001, False),
        (1862.0, 1862.0 * (1 + 1e-12), True),
    ],
)
def test_a_rounded_mean_is_one(mean: float, value: float, is_same: bool) -> None:
    assert statistics.same(mean, value) is is_same


def test_strata_are_drawn_apart() -> None:
    """Where nothing varies within either stratum their own intervals are joined, by Wilson."""
    scores, strata = [1.0] * 4 + [0.0] * 4, ["a"] * 4 + ["b"] * 4
    assert statistics.stratified_interval(scores, None, strata) == (None, None, None)
    joined = statistics.stratified_interval(scores, None, strata, (0.0, 0.5))
    half = (0.5 * statistics.wilson(0, 4).high) ** 2
    assert joined == pytest.approx((0.0, 0.5 - half**0.5, 0.5 + half**0.5))
    assert statistics.stratified_interval([1.0, 0.0], None, ["a", "b"]) == (None, None, None)
    varied = statistics.stratified_interval([1.0, 0.0, 1.0, 0.0, 1.0, 1.0], None, list("aaaabb"))
    assert varied == statistics.stratified_interval(
        [1.0, 0.0, 1.0, 0.0, 1.0, 1.0], None, list("aaaabb")
    ), "it is seeded"
