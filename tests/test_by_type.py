"""Kinds of questions: by_type.csv of hand-written studies, and the headline that is made of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hand_written import cell

from prunebench import report

KINDS = ["color"] * 5 + ["count"] * 3 + ["odd"] * 2
COLUMNS: dict[str, Any] = {"question_type": KINDS, "perfect": [1.0] * 8 + [0.5, 0.5]}


def _study(folder: Path) -> Path:
    """The unpruned model answers colours and counts, and half of the odd ones."""
    cell(folder, "none", "mixed", [1, 1, 1, 1, 1, 1, 1, 1, 1, 0], columns=COLUMNS)
    cell(folder, "random", "mixed", [1, 0, 0, 0, 0, 0, 0, 0, 1, 1], columns=COLUMNS)
    cell(folder, "fastv", "mixed", [1, 1, 1, 0, 1, 0, 0, 1, 1, 1], columns=COLUMNS)
    return folder


def _table(study: Path) -> pd.DataFrame:
    report.build(study)
    return pd.read_csv(study / "by_type.csv", keep_default_na=False).set_index(["method", "type"])


def _number(table: pd.DataFrame, method: str, kind: str, column: str) -> float:
    return float(table[column].to_dict()[method, kind])


def test_every_kind_has_its_accuracy_beside_the_unpruned_and_the_perfect(tmp_path: Path) -> None:
    table = _table(_study(tmp_path))
    assert _number(table, "fastv", "color", "n") == 5
    assert _number(table, "fastv", "color", "accuracy") == 0.8
    assert _number(table, "fastv", "color", "unpruned") == 1.0
    assert _number(table, "fastv", "odd", "perfect") == 0.5
    assert _number(table, "random", "count", "accuracy") == 0.0


def test_the_headline_leaves_out_what_the_model_cannot_and_the_counting(tmp_path: Path) -> None:
    """Of odd ones the unpruned model gets a half; all objects are counted apart."""
    table = _table(_study(tmp_path))
    counted = table["in_headline"].to_dict()
    assert counted["none", "color"] == "yes"
    assert counted["none", "count"] == counted["none", "odd"] == "no"
    assert _number(table, "fastv", "headline", "accuracy") == 0.8
    assert _number(table, "random", "headline", "accuracy") == pytest.approx(0.2)


def test_a_study_whose_samples_are_of_no_kind_has_no_such_table(tmp_path: Path) -> None:
    cell(_study(tmp_path / "typed"), "pool", "mixed", [1.0] * 10)
    cell(tmp_path / "plain", "none", "mixed", [1.0] * 10)
    outcome = report.build(tmp_path / "plain")
    assert not (tmp_path / "plain" / "by_type.csv").exists()
    assert all("by_type" not in line for line in outcome.warnings)
    assert "pool" not in _table(tmp_path / "typed").index.get_level_values("method")


def test_it_is_drawn_and_goes_when_its_numbers_go(tmp_path: Path) -> None:
    study = _study(tmp_path)
    assert study / "figures" / "by_type.png" in report.build(study).figures
    for folder in (study / "cells").iterdir():
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    cell(study, "none", "mixed", [1.0] * 10)
    cell(study, "fastv", "mixed", [1.0] * 10)
    report.build(study)
    assert not (study / "figures" / "by_type.png").exists()
    assert not (study / "by_type.csv").exists()
