"""Comparing two studies: what moved, and how far they rank methods alike."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hand_written import cell, change, golden_study, metrics_of
from pyarrow import parquet
from scipy import stats

from prunebench.cli import main
from prunebench.report import ReportError
from prunebench.report.agreement import Agreement, compare, rank_correlation
from prunebench.report.changes import Change
from prunebench.study.seal import digest

METHODS = ("divprune", "fastv", "hero", "ptp")
QUESTIONS = 40


def _study(
    folder: Path,
    shares: dict[str, float],
    answers: str = "yes",
    task: str = "t",
    model: str = "tiny",
) -> Path:
    """Methods that answer such shares of the questions right."""
    references = [f"{answers} {number}" for number in range(QUESTIONS)]
    for method, share in shares.items():
        right = round(share * QUESTIONS)
        scores = [1.0] * right + [0.0] * (QUESTIONS - right)
        cell(folder, method, task, scores, model=model, columns={"reference": references})
    return folder


def _moved(change: Change) -> float:
    """By how much, where there are numbers."""
    assert change.difference is not None
    return change.difference.value


def _compared(first: Path, second: Path) -> tuple[Agreement, list[str]]:
    warnings: list[str] = []
    return compare(first, second, warnings.append), warnings


def test_a_study_agrees_with_itself(tmp_path: Path) -> None:
    study = _study(tmp_path, dict(zip(METHODS, (0.9, 0.7, 0.5, 0.3), strict=True)))
    agreement, warnings = _compared(study, study)
    assert {change.mark for change in agreement.changes} == {"no difference shown"}
    assert all(change.paired for change in agreement.changes)
    (ranking,) = agreement.rankings
    assert (ranking.methods, ranking.tau.value) == (4, 1.0)
    assert warnings == []
    # no draw shows anything else, which is no proof
    assert np.isnan([ranking.tau.low, ranking.tau.high]).all()
    for row in agreement.changes:
        assert row.difference is not None
        assert np.isnan([row.difference.low, row.difference.high]).all()


def test_what_moved_is_marked_and_ranks_turn_round(tmp_path: Path) -> None:
    one = _study(tmp_path / "one", dict(zip(METHODS, (0.9, 0.7, 0.5, 0.1), strict=True)))
    other = _study(tmp_path / "other", dict(zip(METHODS, (0.1, 0.5, 0.7, 0.9), strict=True)))
    agreement, _ = _compared(one, other)
    marks = {change.method: change.mark for change in agreement.changes}
    assert (marks["divprune"], marks["ptp"]) == ("worse", "better")
    assert agreement.rankings[0].tau.value == -1.0


def test_other_questions_are_not_paired(tmp_path: Path) -> None:
    """The same numbers of samples, other right answers: one flip more is no proof of anything."""
    one = _study(tmp_path / "one", {"fastv": 0.8})
    same = _study(tmp_path / "same", {"fastv": 0.6})
    other = _study(tmp_path / "other", {"fastv": 0.6}, answers="no")
    paired, unpaired = _compared(one, same)[0].changes[0], _compared(one, other)[0].changes[0]
    assert (paired.paired, unpaired.paired) == (True, False)
    assert _moved(paired) == pytest.approx(-0.2)
    assert _moved(unpaired) == pytest.approx(-0.2)
    assert paired.mark == "worse"
    assert unpaired.mark == "no difference shown"


def test_the_only_tasks_of_two_studies_stand_for_each_other(tmp_path: Path) -> None:
    one = _study(tmp_path / "one", {"fastv": 0.8}, task="spring")
    other = _study(tmp_path / "other", {"fastv": 0.8}, task="autumn", answers="no")
    agreement, warnings = _compared(one, other)
    assert [change.task for change in agreement.changes] == ["spring"]
    assert warnings == ["task spring is set beside autumn"]


def test_the_only_models_of_two_studies_stand_for_each_other(tmp_path: Path) -> None:
    """The same questions, asked of a model that was trained again."""
    shares = dict(zip(METHODS, (0.9, 0.7, 0.5, 0.3), strict=True))
    one = _study(tmp_path / "one", shares, model="first")
    other = _study(tmp_path / "other", shares, model="again")
    agreement, warnings = _compared(one, other)
    assert {change.key.model for change in agreement.changes} == {"first"}
    assert all(change.paired for change in agreement.changes)
    assert agreement.rankings[0].tau.value == 1.0
    assert warnings == ["model first is set beside again"]


def test_where_less_is_better_a_larger_number_is_worse(tmp_path: Path) -> None:
    for name, scores in (("one", [0.1, 0.2] * 20), ("other", [0.9] * 40)):
        cell(tmp_path / name, "fastv", "t", scores, higher_is_better=False)
    (row,) = _compared(tmp_path / "one", tmp_path / "other")[0].changes
    assert (row.mark, _moved(row) > 0) == ("worse", True)


def test_other_images_with_the_same_answers_are_other_questions(tmp_path: Path) -> None:
    for name, picture in (("one", "a"), ("other", "b")):
        images = [f"{picture}{number}" for number in range(QUESTIONS)]
        columns = {"reference": ["yes"] * QUESTIONS, "image": images}
        cell(tmp_path / name, "fastv", "t", [1.0, 0.0] * 20, columns=columns)
    (row,) = _compared(tmp_path / "one", tmp_path / "other")[0].changes
    assert not row.paired


def test_files_without_a_column_of_images_are_read_as_they_are(tmp_path: Path) -> None:
    folder = cell(tmp_path, "fastv", "t", [1.0, 0.0] * 20, columns={"reference": ["yes"] * 40})
    path = folder / "samples.parquet"
    parquet.write_table(parquet.read_table(path).drop_columns(["image"]), path)
    change(folder, files={path.name: digest(path.read_bytes())})
    (row,) = _compared(tmp_path, tmp_path)[0].changes
    assert row.paired


def test_a_metric_that_is_no_mean_of_samples_is_compared_by_its_own_interval(
    tmp_path: Path,
) -> None:
    for name, value in (("one", 0.9), ("other", 0.4)):
        bounds = {"ci_low": value - 0.05, "ci_high": value + 0.05, "n": 40}
        metrics = metrics_of({"score": value}, **bounds)
        cell(tmp_path / name, "fastv", "t", [1.0, 0.0] * 20, metrics=metrics)
    (row,) = _compared(tmp_path / "one", tmp_path / "other")[0].changes
    assert (row.first, row.second, row.mark) == (0.9, 0.4, "worse")
    assert _moved(row) == pytest.approx(-0.5)
    assert not row.paired


def test_what_ran_before_and_fails_now_is_worse(tmp_path: Path) -> None:
    one = _study(tmp_path / "one", {"fastv": 0.8, "hero": 0.8})
    other = _study(tmp_path / "other", {"hero": 0.8})
    cell(other, "fastv", "t", None, status="failed", reason="broken")
    by_method = {change.method: change for change in _compared(one, other)[0].changes}
    assert by_method["fastv"].mark == "worse"
    assert by_method["fastv"].statuses == ("ok", "failed")
    back = {change.method: change.mark for change in _compared(other, one)[0].changes}
    assert back == {"fastv": "better", "hero": "no difference shown"}


def test_seeds_of_two_studies_need_not_be_the_same(tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("other", 1)):
        cell(tmp_path / name, "random", "t", [1.0, 0.0] * 20, seed=seed)
    (row,) = _compared(tmp_path / "one", tmp_path / "other")[0].changes
    assert (row.paired, _moved(row)) == (True, 0.0)


def test_questions_of_one_image_are_drawn_together(tmp_path: Path) -> None:
    """Forty questions of two images say as little as two."""
    for name, scores in (("one", [1.0] * 20 + [0.0] * 20), ("other", [0.0] * 40)):
        columns = {"image": ["a"] * 20 + ["b"] * 20}
        cell(tmp_path / name, "fastv", "t", scores, columns=columns)
    (row,) = _compared(tmp_path / "one", tmp_path / "other")[0].changes
    assert row.mark == "no difference shown"


def test_studies_without_a_common_method_are_refused(tmp_path: Path) -> None:
    one = _study(tmp_path / "one", {"fastv": 0.8})
    other = _study(tmp_path / "other", {"hero": 0.8})
    with pytest.raises(ReportError, match="share no method at one model, task and budget"):
        _compared(one, other)


def test_rank_correlation_is_kendalls_with_an_interval_around_it() -> None:
    generator = np.random.default_rng(3)
    shares = [0.9, 0.7, 0.6, 0.4, 0.2]
    studies = []
    for _ in range(2):
        scores = [pd.Series(generator.random(200) < share, dtype=float) for share in shares]
        studies.append(scores)
    tau = rank_correlation(studies[0], studies[1], paired=False)
    means = [[float(scores.mean()) for scores in study] for study in studies]
    assert tau.value == pytest.approx(stats.kendalltau(*means).statistic)
    assert tau.low <= tau.value <= tau.high


def test_rankings_that_no_draw_turns_have_no_interval() -> None:
    """Four methods, each of which has half as many right as the one before, on all of 400."""
    scores = [pd.Series([1.0] * right + [0.0] * (400 - right)) for right in (320, 160, 80, 20)]
    tau = rank_correlation(scores, scores, paired=True)
    assert tau.value == 1.0
    assert np.isnan([tau.low, tau.high]).all()


def test_rankings_draw_the_questions_of_an_image_together(tmp_path: Path) -> None:
    """Asking every image three times tells no more of how methods rank on other images."""
    intervals = []
    for copies in (1, 3):
        generator = np.random.default_rng(5)
        images = [f"{number:02}" for number in range(20) for _ in range(copies)]
        ids = [f"{image}-{place % copies}" for place, image in enumerate(images)]
        for name in ("one", "other"):
            for method, share in zip(METHODS, (0.7, 0.6, 0.5, 0.4), strict=True):
                scores = np.repeat(generator.random(20) < share, copies).astype(float)
                study, columns = tmp_path / f"{name}{copies}", {"image": images}
                cell(study, method, "t", scores.tolist(), ids=ids, columns=columns)
        agreement, _ = _compared(tmp_path / f"one{copies}", tmp_path / f"other{copies}")
        intervals.append(agreement.rankings[0].tau)
    once, thrice = intervals
    assert once.low < once.high
    assert (thrice.value, thrice.low, thrice.high) == (once.value, once.low, once.high)


def test_the_command_prints_and_writes(tmp_path: Path) -> None:
    study = _study(tmp_path / "study", dict(zip(METHODS, (0.9, 0.7, 0.5, 0.3), strict=True)))
    words = ["compare", str(study), str(study), f"out={tmp_path / 'changes.csv'}"]
    run = subprocess.run(
        [sys.executable, "-m", "prunebench.cli", *words], capture_output=True, text=True, check=True
    )
    assert "0 of 4 rows moved" in run.stdout
    assert "Kendall's tau 1.00" in run.stdout
    assert "nan" not in run.stdout
    table = pd.read_csv(tmp_path / "changes.csv")
    assert list(table["method"]) == sorted(METHODS)
    assert set(table["change"]) == {"no difference shown"}
    assert set(table["n"]) == {QUESTIONS}
    assert table["difference_low"].isna().all()


def test_a_narrow_terminal_says_what_each_number_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = golden_study(tmp_path / "study")
    monkeypatch.setenv("COLUMNS", "50")
    assert main(["compare", str(study), str(study)]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert any(line.startswith("first: 0.") for line in lines)
    assert any(line.startswith("second: 0.") for line in lines)
