"""Comparing two studies: what moved, and how far they rank methods alike."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hand_written import cell
from scipy import stats

from prunebench.report import ReportError
from prunebench.report.agreement import Agreement, compare, rank_correlation

METHODS = ("divprune", "fastv", "hero", "ptp")
QUESTIONS = 40


def _study(folder: Path, shares: dict[str, float], answers: str = "yes", task: str = "t") -> Path:
    """Methods that answer such shares of the questions right."""
    references = [f"{answers} {number}" for number in range(QUESTIONS)]
    for method, share in shares.items():
        right = round(share * QUESTIONS)
        scores = [1.0] * right + [0.0] * (QUESTIONS - right)
        cell(folder, method, task, scores, columns={"reference": references})
    return folder


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
    assert paired.difference.value == pytest.approx(-0.2)
    assert unpaired.difference.value == pytest.approx(-0.2)
    assert paired.mark == "worse"
    assert unpaired.mark == "no difference shown"


def test_the_only_tasks_of_two_studies_stand_for_each_other(tmp_path: Path) -> None:
    one = _study(tmp_path / "one", {"fastv": 0.8}, task="spring")
    other = _study(tmp_path / "other", {"fastv": 0.8}, task="autumn", answers="no")
    agreement, warnings = _compared(one, other)
    assert [change.task for change in agreement.changes] == ["spring"]
    assert warnings == ["task spring is set beside autumn"]


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


def test_the_command_prints_and_writes(tmp_path: Path) -> None:
    study = _study(tmp_path / "study", dict(zip(METHODS, (0.9, 0.7, 0.5, 0.3), strict=True)))
    words = ["compare", str(study), str(study), f"out={tmp_path / 'changes.csv'}"]
    run = subprocess.run(
        [sys.executable, "-m", "prunebench.cli", *words], capture_output=True, text=True, check=True
    )
    assert "0 of 4 rows moved" in run.stdout
    assert "Kendall's tau 1.00" in run.stdout
    table = pd.read_csv(tmp_path / "changes.csv")
    assert list(table["method"]) == sorted(METHODS)
    assert set(table["change"]) == {"no difference shown"}
