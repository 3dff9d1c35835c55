"""Comparisons by other means: scipy, statsmodels and plain loops, for few samples and many, with
ties, where all is equal, and with answers that are missing.
"""

from __future__ import annotations

from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hand_written import cell, fold, metrics_of, row
from scipy import optimize, stats
from statsmodels.stats.multitest import multipletests

from prunebench.report.comparison import pair_of
from prunebench.study import contrasts, pairwise
from prunebench.study.noninferiority import Verdict, loss
from prunebench.study.statistics import Array

COUNTS = [5, 20, 500]
KINDS = ["random", "ties", "equal", "all lost"]


def answers(n: int, kind: str) -> tuple[Array, Array]:
    """Right and wrong of a method and of the unpruned model."""
    rng = np.random.default_rng(n)
    reference = (rng.random(n) < 0.8).astype(float)
    if kind == "random":
        return (rng.random(n) < 0.6).astype(float), reference
    if kind == "ties":  # as many are won as lost
        method = reference.copy()
        both = min(int(reference.sum()), int(n - reference.sum()), max(1, n // 10))
        method[np.flatnonzero(reference == 1)[:both]] = 0
        method[np.flatnonzero(reference == 0)[:both]] = 1
        return method, reference
    if kind == "equal":
        return reference.copy(), reference
    return np.zeros(n), np.ones(n)


def with_gaps(scores: Array, every: int) -> Array:
    """The same with some answers missing."""
    scores = scores.copy()
    scores[::every] = np.nan
    return scores


def both_answered(method: Array, reference: Array) -> tuple[Array, Array]:
    mask = ~(np.isnan(method) | np.isnan(reference))
    return method[mask], reference[mask]


def mcnemar(method: Array, reference: Array) -> float:
    wins, losses = int((method > reference).sum()), int((method < reference).sum())
    return float(stats.binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", COUNTS)
def test_mcnemar_is_exact_in_both_tables(n: int, kind: str, missing: bool, tmp_path: Path) -> None:
    method, reference = answers(n, kind)
    if missing:
        method, reference = with_gaps(method, 4), with_gaps(reference, 3)
    own, other = both_answered(method, reference)
    p = mcnemar(own, other)
    sheet = pairwise.Sheet(np.arange(n), {"a": method[:, None], "b": reference[:, None]})
    (pair,) = pairwise.compare([sheet], [("a", "b")])
    assert pair is not None
    assert (pair.test, pair.n) == ("mcnemar", len(own))
    assert (pair.value, pair.p) == pytest.approx((float((own - other).mean()), p))
    for name, scores in (("none", reference), ("fastv", method)):
        metrics = metrics_of({"score": float(np.nanmean(scores))}, unit="", n=n)
        cell(tmp_path, name, "color", scores.tolist(), metrics=metrics)
    fold(tmp_path)
    line = row(tmp_path, "fastv", "color")
    assert line["n_paired_none"] == len(own)
    assert line["difference_to_none"] == pytest.approx(float((own - other).mean()))
    assert line["difference_to_none_p"] == pytest.approx(p)


@pytest.mark.parametrize("count", [1, 5, 20, 500])
@pytest.mark.parametrize("kind", ["random", "ties", "ones"])
def test_holm_is_that_of_statsmodels(count: int, kind: str) -> None:
    values = np.random.default_rng(count).random(count) ** 4
    if kind == "ties":
        values = values.round(1)
    elif kind == "ones":
        values = np.ones(count)
    expected = multipletests(values, method="holm")[1]
    assert pairwise.holm(values.tolist()) == pytest.approx(expected.tolist())


@pytest.mark.parametrize("graded", [False, True])
@pytest.mark.parametrize("n", COUNTS)
def test_the_paired_bootstrap_is_scipys(n: int, graded: bool) -> None:
    """Of other draws, so that the ends are near each other, by the standard error of a quantile."""
    method, reference = answers(n, "random")
    if graded:
        method = method * np.random.default_rng(1).random(n)
    gaps = method - reference
    expected = stats.bootstrap(
        (gaps,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(3)
    ).confidence_interval
    sheet = pairwise.Sheet(np.arange(n), {"a": method[:, None], "b": reference[:, None]})
    (pair,) = pairwise.compare([sheet], [("a", "b")])
    assert pair is not None
    own = contrasts.difference([(method, reference)])
    # at 2.5 % a quantile of 2,000 draws is sure to a tenth of the deviation; whole steps for few
    slack = 0.25 * float(gaps.std()) / sqrt(n) + (1 / n if n <= 20 else 0)
    for low, high in ((own.low, own.high), (pair.low, pair.high)):
        assert (low, high) == pytest.approx((expected.low, expected.high), abs=slack)


@pytest.mark.parametrize("n", COUNTS)
def test_the_bootstrap_of_images_draws_images(n: int) -> None:
    """By a plain loop: images of one to five questions, drawn whole, and the mean over what was
    drawn.
    """
    rng = np.random.default_rng(n)
    sizes = rng.integers(1, 6, n)
    codes = np.repeat(np.arange(n), sizes)
    method = (rng.random(len(codes)) < np.repeat(rng.random(n), sizes)).astype(float)
    reference = (rng.random(len(codes)) < 0.8).astype(float)
    sums = np.bincount(codes, weights=method - reference)
    means = []
    for _ in range(8000):
        picks = rng.integers(0, n, n)
        means.append(sums[picks].sum() / sizes[picks].sum())
    expected = np.quantile(means, [0.025, 0.975])
    gap = contrasts.difference([pair_of(method, reference, codes)])
    assert gap.value == pytest.approx(float((method - reference).mean()))
    assert (gap.low, gap.high) == pytest.approx(tuple(expected), abs=0.3 * float(np.std(means)))
    sheet = pairwise.Sheet(codes, {"a": method[:, None], "b": reference[:, None]})
    (pair,) = pairwise.compare([sheet], [("a", "b")])
    assert pair is not None
    assert pair.value == pytest.approx(gap.value)
    assert (pair.low, pair.high) == pytest.approx((gap.low, gap.high), abs=0.3 * np.std(means))


def tango(method: Array, reference: Array, delta: float) -> float:
    """One-sided p of "the difference is `delta` or less", with the likeliest share of losses found
    by search.
    """
    n = len(method)
    gains, losses = int((method > reference).sum()), int((method < reference).sum())

    def surprise(share: float) -> float:
        parts = (gains, share + delta), (losses, share), (n - gains - losses, 1 - 2 * share - delta)
        return -float(sum(count * np.log(max(part, 1e-300)) for count, part in parts if count))

    least, most = max(0.0, -delta), (1 - delta) / 2
    found: Any = optimize.minimize_scalar(
        surprise, bounds=(least, most), method="bounded", options={"xatol": 1e-12}
    )
    share = min([least, float(found.x), most], key=surprise)
    error = sqrt(max(n * (2 * share + delta * (1 - delta)), 1e-300))
    return float(stats.norm.sf((gains - losses - n * delta) / error))


@pytest.mark.parametrize("margin", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", COUNTS)
def test_non_inferiority_is_tangos(n: int, kind: str, margin: float) -> None:
    method, reference = answers(n, kind)
    result = loss([(method, reference)], margin)
    assert result.value == pytest.approx(float((reference - method).mean()))
    assert result.p == pytest.approx(tango(method, reference, -margin), rel=1e-3, abs=1e-9)
    less = tango(reference, method, margin)
    assert result.p_more == pytest.approx(less, rel=1e-3, abs=1e-9)
    if kind == "all lost" and n > 5:
        assert result.verdict() is Verdict.LOSES
    if kind == "equal" and n <= 20 and margin < 0.1:
        assert result.verdict() is Verdict.UNDECIDED


@pytest.mark.parametrize("n", COUNTS)
def test_non_inferiority_of_grades_is_students_with_an_answer_lost(n: int) -> None:
    rng = np.random.default_rng(n)
    method, reference = rng.random(n), rng.random(n)
    gaps = np.append(method - reference, -1.0)
    expected = stats.ttest_1samp(gaps, -0.1, alternative="greater")
    result = loss([(method, reference)], 0.1)
    assert result.p == pytest.approx(float(expected.pvalue))
    # the largest loss that is not ruled out: where that p comes to 5 %
    interval = expected.confidence_interval(0.95)
    assert result.bound == pytest.approx(-float(interval.low), abs=1e-6)
