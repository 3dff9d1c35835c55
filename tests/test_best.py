"""Which method at which budget: the test of non-inferiority, and answers of written studies."""

from __future__ import annotations

import subprocess
import sys
from math import sqrt
from pathlib import Path

import numpy as np
import pytest
from hand_written import cell, cost

from prunebench.cli import main
from prunebench.report.best import Answer, Query, best
from prunebench.study.cells import ReportError
from prunebench.study.contrasts import GroupedPair, Pair
from prunebench.study.noninferiority import Loss, Verdict, loss
from prunebench.study.pairwise import holm

# ---- the test ------------------------------------------------------------------------------------


def answers(n: int, lost: int = 0, gained: int = 0) -> Pair:
    """Right and wrong of a method and of the unpruned model, which agree but for these."""
    method, reference = np.ones(n), np.ones(n)
    method[:lost] = 0
    reference[lost : lost + gained] = 0
    return method, reference


def test_without_a_changed_answer_the_score_is_known() -> None:
    """Tango's statistic is then sqrt(n m / (1 - m)): 1.645 takes 268 answers at a margin of .01."""
    for n, verdict in ((267, Verdict.UNDECIDED), (268, Verdict.KEEPS)):
        result = loss([answers(n)], 0.01)
        assert result.value == 0
        assert result.verdict() is verdict
    score = sqrt(268 * 0.01 / 0.99)
    assert loss([answers(268)], 0.01).p == pytest.approx(float(_tail(score)))


def _tail(score: float) -> float:
    from scipy.stats import norm

    return float(norm.sf(score))


def test_what_is_lost_beyond_the_margin_is_said() -> None:
    result = loss([answers(200, lost=20, gained=2)], 0.01)
    assert result.value == pytest.approx(0.09)
    assert result.verdict() is Verdict.LOSES
    assert result.bound > 0.09


def test_few_equal_answers_are_no_proof_whatever_their_scores() -> None:
    scores = np.full(20, 0.5)
    assert loss([(scores, scores)], 0.05).verdict() is Verdict.UNDECIDED
    scores = np.full(2000, 0.5)
    assert loss([(scores, scores)], 0.05).verdict() is Verdict.KEEPS


def test_a_loss_of_the_margin_passes_as_seldom_as_stated() -> None:
    """At the margin, the worst case, 5 % of studies say that it is kept; both tests, and two
    tasks.
    """
    generator = np.random.default_rng(0)
    studies, margin, passed = 200, 0.05, {"binary": 0, "scores": 0, "tasks": 0}
    for _ in range(studies):
        pairs = []
        for _ in range(2):
            reference = generator.random(250) < 0.8
            flips = generator.random(250)
            # of the right ones .1 become wrong, of the wrong ones .15 right: .08 less .03
            method = np.where(reference, flips > 0.1, flips < 0.15)
            pairs.append((method.astype(float), reference.astype(float)))
        noise = generator.normal(0, 0.01, 250)
        graded = (np.clip(pairs[0][0] * 0.98 + noise, 0, 1), pairs[0][1] * 0.98)
        passed["binary"] += loss(pairs[:1], margin).verdict() is Verdict.KEEPS
        passed["scores"] += loss([graded], margin).verdict() is Verdict.KEEPS
        passed["tasks"] += loss(pairs, margin).verdict() is Verdict.KEEPS
    for kind, count in passed.items():
        assert count / studies < 0.1, kind
    assert passed["binary"] / studies > 0.01


def test_as_many_questions_as_are_named_show_it_four_times_in_five() -> None:
    generator = np.random.default_rng(1)
    first = loss([answers(200, lost=3, gained=3)], 0.02)
    assert first.verdict() is Verdict.UNDECIDED
    n = first.questions()
    assert n is not None
    assert n > 200
    shown = 0
    for _ in range(100):
        draw = generator.random(n)
        method = (draw >= 0.015).astype(float)
        reference = ((draw < 0.015) | (draw >= 0.03)).astype(float)
        shown += loss([(method, reference)], 0.02).verdict() is Verdict.KEEPS
    assert 0.7 < shown / 100 < 0.92


def test_no_number_of_questions_says_what_lies_on_the_margin() -> None:
    assert loss([answers(1000, lost=10)], 0.01).questions() is None


def test_where_less_is_better_more_is_lost() -> None:
    method, reference = answers(200, lost=40)
    assert loss([(method, reference)], 0.05, more_is_better=False).value == pytest.approx(-0.2)
    assert loss([(method, reference)], 0.05, more_is_better=False).verdict() is Verdict.KEEPS


def test_groups_count_as_one_answer_each() -> None:
    """Two hundred questions about twenty images are twenty answers."""
    alone = loss([answers(200)], 0.02)
    tens = np.full(20, 10.0)
    together = loss([GroupedPair(tens, tens, tens)], 0.02)
    assert together.n == alone.n == 200
    assert together.bound > 3 * alone.bound


def test_of_groups_as_many_questions_more_are_named() -> None:
    """Ten questions about an image, all lost or none: it takes ten times as many as one each."""
    method, reference = np.full(40, 0.5), np.full(40, 0.5)
    method[:3], reference[3:6] = 0, 0
    one = loss([(method, reference)], 0.05)
    ten = loss([GroupedPair(10 * method, 10 * reference, np.full(40, 10.0))], 0.05)
    needed = one.questions()
    assert needed is not None
    assert ten.n == 10 * one.n
    assert ten.questions() == pytest.approx(10 * needed, abs=10)


def test_images_of_many_questions_are_judged_by_what_they_lose() -> None:
    """A tenth is lost of every image, however many questions it has: none says otherwise."""
    sizes = np.array([10.0, 20, 30, 40, 50] * 40)
    even, uneven = np.full(200, 10.0), sizes
    expected = loss([GroupedPair(0.9 * even, even, even)], 0.15)
    own = loss([GroupedPair(0.9 * uneven, uneven, uneven)], 0.15)
    assert own.value == pytest.approx(0.1)
    assert own.p == pytest.approx(expected.p)


def test_the_bound_is_where_the_test_turns() -> None:
    pair = answers(300, lost=6, gained=2)
    bound = loss([pair], 0.05).bound
    assert loss([pair], bound + 1e-6).p < 0.05 < loss([pair], bound - 1e-6).p


def test_holms_correction_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []
    assert holm([0.5, 0.9]) == [1.0, 1.0]


@pytest.mark.parametrize("margin", [0.0, 1.0, -0.1])
def test_a_margin_that_is_none_is_refused(margin: float) -> None:
    with pytest.raises(ValueError, match="is no margin"):
        loss([answers(10)], margin)


# ---- studies -------------------------------------------------------------------------------------


def scores(n: int, wrong: int) -> list[float]:
    return [0.0] * wrong + [1.0] * (n - wrong)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Of 600 questions the unpruned model gets all, one method all at half and most at a quarter of
    the tokens, the control few.
    """
    folder = tmp_path / "study"
    cell(folder, "none", "color", scores(600, 0))
    for budget, wrong, total in (("0.5", 0, 0.8), ("0.25", 2, 0.7), ("0.1", 90, 0.6)):
        cell(folder, "fastv", "color", scores(600, wrong), budget=budget)
        cost(folder, "fastv", "color", 0.7, total, budget=budget)
    cell(folder, "random", "color", scores(600, 0), budget="0.1", control=True)
    cost(folder, "random", "color", 0.4, 0.5, budget="0.1", control=True)
    return folder


def answer_of(study: Path, **query: object) -> Answer:
    notes: list[str] = []
    (answer,) = best(study, Query(**query), notes.append)  # type: ignore[arg-type]
    assert notes == []
    return answer


def test_the_cheapest_that_keeps_is_best_and_a_control_is_none(study: Path) -> None:
    answer = answer_of(study, loss=0.02)
    assert [one.cost for one in answer.candidates] == [0.5, 0.6, 0.7, 0.8]
    chosen = answer.best
    assert chosen is not None
    assert (chosen.method, chosen.budget) == ("fastv", "25 %")
    assert chosen.loss.value == pytest.approx(2 / 600)
    assert answer.undecided == ()


def test_too_few_questions_are_an_answer(study: Path) -> None:
    """At a margin of half a point 600 questions do not tell two wrong ones from four."""
    answer = answer_of(study, loss=0.005)
    assert answer.best is None
    (quarter, half) = answer.undecided
    assert (quarter.budget, half.budget) == ("25 %", "50 %")
    assert quarter.questions is not None
    assert half.questions is not None
    assert quarter.questions > half.questions > 600


def test_what_costs_no_less_is_no_choice(study: Path) -> None:
    cell(study, "pool", "color", scores(600, 0))
    cost(study, "pool", "color", 1.1, 1.05)
    answer = answer_of(study, loss=0.02)
    assert "pool" not in {one.method for one in answer.candidates}
    assert answer.left_out == ("no less total_ratio than the unpruned model's 1: pool 50 %",)


def test_more_comparisons_ask_for_more(study: Path) -> None:
    alone = answer_of(study, loss=0.02, correct="none")
    family = answer_of(study, loss=0.02)
    for one, other in zip(alone.candidates, family.candidates, strict=True):
        assert one.loss == other.loss
        assert one.p <= other.p
    assert {one.tests for one in family.candidates if not one.control} == {3}


def test_another_metric_and_one_that_is_none(study: Path) -> None:
    answer = answer_of(study, loss=0.02, metric="flops_ratio")
    assert {one.cost for one in answer.candidates} == {0.6, 0.625}
    with pytest.raises(ReportError, match="metric 'speed' is no number of the leaderboard"):
        answer_of(study, metric="speed")
    with pytest.raises(ReportError, match="the study has no model 'other'; it has tiny"):
        answer_of(study, model="other")
    with pytest.raises(ReportError, match="the study has no task 'other'"):
        answer_of(study, task="other")


def test_a_method_without_answers_is_left_out_with_its_reason(study: Path) -> None:
    cell(study, "pool", "color", scores(10, 0), ids=[f"other/{n}" for n in range(10)])
    cost(study, "pool", "color", 0.5, 0.5)
    notes: list[str] = []
    (answer,) = best(study, Query(loss=0.02), notes.append)
    assert answer.left_out == ("of color it has no answers beside the unpruned model's: pool 50 %",)
    assert notes


def test_of_several_tasks_each_counts_alike(study: Path) -> None:
    cell(study, "none", "count", scores(200, 0))
    cell(study, "fastv", "count", scores(200, 20), budget="0.5")
    cost(study, "fastv", "count", 0.7, 0.8, budget="0.5")
    (half,) = [one for one in answer_of(study).candidates if one.budget == "50 %"]
    assert half.loss.value == pytest.approx(0.05)
    alone = answer_of(study, task="color")
    assert alone.tasks == ("color",)
    (half,) = [one for one in alone.candidates if one.budget == "50 %"]
    assert half.loss.value == 0


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "prunebench.cli", "best", *words],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_says_which_and_how_sure(study: Path) -> None:
    done = run(str(study), "loss=0.02")
    assert done.returncode == 0, done.stderr
    assert "fastv 25 %: total_ratio 0.7 [0.68, 0.74], loses 0.0033" in done.stdout
    assert "Holm over 3 comparisons" in done.stdout


def test_the_command_says_that_there_are_too_few(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["best", str(study), "loss=0.005"]) == 0
    printed = capsys.readouterr().out
    assert "not enough questions to say" in printed
    assert "there are 600" in printed
    assert main(["best", str(study), "loss=2"]) == 2
    assert "loss is 2" in capsys.readouterr().err
    assert main(["best", str(study / "nowhere")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_loss_knows_what_a_correction_asks() -> None:
    result = Loss(0.0, 0.01, 0.02, 0.02, 0.98, 500, 0.01)
    assert result.verdict() is Verdict.KEEPS
    assert result.verdict(p=0.2) is Verdict.UNDECIDED
    strict, plain = result.questions(0.005), result.questions(0.05)
    assert strict is not None
    assert plain is not None
    assert strict > plain
