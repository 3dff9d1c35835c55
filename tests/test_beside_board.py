"""What stands beside a row of the leaderboard: answers of the unpruned model, blind, resize and the
samples that resize has wrong.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hand_written import board_of, cell, row

SAID: dict[str, list[str]] = {
    "none": ["red", "two", "left", "up"],
    "fastv": ["red ", "three", "left", "down"],
    "resize": ["red", "one", "right", "up"],
}
RIGHT = {"none": [1, 1, 0, 0], "fastv": [1, 0, 0, 1], "resize": [1, 0, 0, 0]}


def study(folder: Path, task: str = "color") -> Path:
    for method, answers in SAID.items():
        columns: dict[str, Any] = {"prediction": answers}
        cell(folder, method, task, RIGHT[method], columns=columns)
    return folder


def test_fidelity_and_flips_count_what_the_mean_hides(tmp_path: Path) -> None:
    """Half right as the unpruned model is, but by half of its answers."""
    board_of(study(tmp_path))
    line = row(tmp_path, "fastv", "color")
    assert line["difference_to_none"] == 0
    assert line["fidelity"] == 0.5
    assert (line["right_to_wrong"], line["wrong_to_right"]) == (0.25, 0.25)
    unpruned = row(tmp_path, "none", "color", "1.0")
    assert np.isnan(unpruned["fidelity"])


def test_hard_samples_are_those_that_a_smaller_image_has_wrong(tmp_path: Path) -> None:
    board = board_of(study(tmp_path))
    line = row(tmp_path, "fastv", "color")
    assert line["accuracy_resize"] == 0.25
    assert line["n_hard"] == 3
    assert line["hard"] == pytest.approx(1 / 3)
    assert line["hard_none"] == pytest.approx(1 / 3)
    assert line["hard_low"] < 1 / 3 < line["hard_high"]
    assert board.set_index("method").loc["resize", "n_hard"] != 3


def test_hard_samples_are_of_the_same_budget(tmp_path: Path) -> None:
    cell(study(tmp_path), "fastv", "color", [1, 1, 1, 1], budget="0.25")
    board_of(tmp_path)
    assert np.isnan(row(tmp_path, "fastv", "color", "0.25")["n_hard"])


def test_tasks_are_averaged_where_all_have_the_number(tmp_path: Path) -> None:
    study(study(tmp_path), "count")
    board_of(tmp_path)
    pooled = row(tmp_path, "fastv", "all")
    assert (pooled["fidelity"], pooled["n_hard"]) == (0.5, 6)
    for method in ("none", "fastv"):
        cell(tmp_path, method, "plain", [1, 0])
    board_of(tmp_path)
    pooled = row(tmp_path, "fastv", "all")
    assert np.isnan(pooled["fidelity"])
    assert pooled["right_to_wrong"] == pytest.approx((0.25 + 0.25 + 0) / 3)


def test_scores_that_are_no_shares_are_neither_right_nor_wrong(tmp_path: Path) -> None:
    for method in ("none", "fastv", "resize"):
        cell(tmp_path, method, "points", [50.0, 70.0])
    board = board_of(tmp_path)
    assert "right_to_wrong" not in board
    assert "hard" not in board


def test_accuracy_stands_over_the_same_samples_as_evidence_recall(tmp_path: Path) -> None:
    """Of four samples the first two have evidence; recall speaks of these alone."""
    recall: dict[str, Any] = {"evidence_recall": [0.5, 0.5, None, None]}
    cell(tmp_path, "none", "color", [1, 1, 1, 1])
    cell(tmp_path, "fastv", "color", [1, 0, 1, 1], columns=recall)
    board_of(tmp_path)
    line = row(tmp_path, "fastv", "color")
    assert (line["accuracy"], line["accuracy_evidence"]) == (0.75, 0.5)
    whole: dict[str, Any] = {"evidence_recall": [0.5, 0.5, 0.5, 0.5]}
    cell(tmp_path / "whole", "fastv", "color", [1, 0, 1, 1], columns=whole)
    assert "accuracy_evidence" not in board_of(tmp_path / "whole"), "it is the accuracy itself"


def test_a_study_without_these_has_no_such_columns(tmp_path: Path) -> None:
    cell(tmp_path, "fastv", "color", [1, 0])
    board: pd.DataFrame = board_of(tmp_path)
    assert not {"fidelity", "hard", "accuracy_blind", "published_own"} & set(board.columns)
