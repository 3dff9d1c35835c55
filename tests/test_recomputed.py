"""Committed studies say what their cells say: every number of leaderboard.csv, recomputed."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import hand_written
import pytest
import recomputation
import synthetic

STUDIES = sorted(path.parent for path in Path(__file__).parents[1].glob("results/*/cells"))


def test_there_are_committed_studies() -> None:
    assert STUDIES


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_every_number_of_a_committed_leaderboard_comes_out_again(study: Path) -> None:
    assert recomputation.mismatches(study) == []


def test_every_number_of_several_tasks_seeds_and_images_comes_out_again(tmp_path: Path) -> None:
    synthetic.write(tmp_path, synthetic.Shape(models=2, tasks=3, methods=4, seeds=2, samples=14))
    hand_written.fold(tmp_path)
    assert recomputation.mismatches(tmp_path) == []


@pytest.mark.parametrize(
    "name", ["accuracy", "relative_accuracy", "difference_to_none", "flops_ratio", "fidelity"]
)
def test_a_changed_number_is_a_mismatch(name: str, tmp_path: Path) -> None:
    """The recomputation sees what it is there for."""
    study = tmp_path / "study"
    shutil.copytree(STUDIES[0] / "cells", study / "cells")
    with (STUDIES[0] / "leaderboard.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    place = next(number for number, row in enumerate(rows) if row[name] not in ("", "1"))
    rows[place] = recomputation.changed(rows[place], name)
    with (study / "leaderboard.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    faults = recomputation.mismatches(study)
    assert any(f": {name} is {rows[place][name]}" in fault for fault in faults)
