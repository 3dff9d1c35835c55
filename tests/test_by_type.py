"""Kinds of questions: by_type.csv of hand-written studies, and the headline that is made of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hand_written import cell
from matplotlib.axes import Axes

from prunebench import report
from prunebench.report import board, by_type, slices, tables
from prunebench.study import cells
from prunebench.study.statistics import wilson

KINDS = ["color"] * 5 + ["count"] * 3 + ["odd"] * 2
COLUMNS: dict[str, Any] = {"question_type": KINDS, "perfect": [1.0] * 8 + [0.5, 0.5]}


def _study(folder: Path) -> Path:
    """The unpruned model answers colours and counts, and half of the odd ones."""
    cell(folder, "none", "mixed", [1, 1, 1, 1, 1, 1, 1, 1, 1, 0], columns=COLUMNS)
    cell(folder, "random", "mixed", [1, 0, 0, 0, 0, 0, 0, 0, 1, 1], columns=COLUMNS)
    cell(folder, "fastv", "mixed", [1, 1, 1, 0, 1, 0, 0, 1, 1, 1], columns=COLUMNS)
    return folder


def _table(study: Path) -> dict[tuple[str, str], dict[Any, Any]]:
    """The rows by method and group."""
    report.build(study)
    rows = pd.read_csv(study / "by_type.csv", keep_default_na=False)
    return {(row["method"], row["type"]): row for row in rows.to_dict("records")}


def test_every_kind_has_its_accuracy_beside_the_unpruned_and_the_perfect(tmp_path: Path) -> None:
    table = _table(_study(tmp_path))
    row = table[("fastv", "color")]
    assert (row["n"], float(row["accuracy"]), float(row["unpruned"])) == (5, 0.8, 1.0)
    assert float(table[("fastv", "odd")]["perfect"]) == 0.5
    assert float(table[("random", "count")]["accuracy"]) == 0.0


def test_the_headline_leaves_out_what_the_model_cannot_and_the_counting(tmp_path: Path) -> None:
    """Of odd ones the unpruned model gets a half; all objects are counted apart."""
    table = _table(_study(tmp_path))
    counts = {kind: table[("none", kind)]["in_headline"] for kind in ("color", "count", "odd")}
    assert counts == {"color": "yes", "count": "no", "odd": "no"}
    assert float(table[("fastv", "headline")]["accuracy"]) == 0.8
    assert float(table[("random", "headline")]["accuracy"]) == pytest.approx(0.2)


def test_a_study_whose_samples_are_of_no_kind_has_no_such_table(tmp_path: Path) -> None:
    cell(_study(tmp_path / "typed"), "pool", "mixed", [1.0] * 10)
    cell(tmp_path / "plain", "none", "mixed", [1.0] * 10)
    outcome = report.build(tmp_path / "plain")
    assert not (tmp_path / "plain" / "by_type.csv").exists()
    assert all("by_type" not in line for line in outcome.warnings)
    # that a cell does not say it does not matter where another one does: samples are the same
    assert _table(tmp_path / "typed")[("pool", "color")]["n"] == 5


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


SIZES: dict[str, Any] = {
    "complexity": [1, 1, 1, 1, 1, 2, 2, 2, 2, 2],
    "available": [10, 20, 30, 40, 50, 60, 70, 80, 90, 100],
    "evidence_tokens": [4, 4, 4, 4, 4, 4, 4, 4, None, None],
}


def test_samples_are_told_apart_by_size_for_every_method_alike(tmp_path: Path) -> None:
    """One that works on pixels does not say where the evidence is, and is divided all the same."""
    sizes: dict[str, Any] = {**SIZES, "evidence_tokens": [4, 4, 4, 4, 4, 9, 9, 9, 9, 9]}
    pixels = {"complexity": SIZES["complexity"], "available": SIZES["available"]}
    cell(tmp_path, "none", "mixed", [1.0] * 10, columns=sizes)
    cell(tmp_path, "fastv", "mixed", [1, 1, 1, 1, 1, 0, 0, 0, 0, 0], columns=sizes)
    cell(tmp_path, "resize", "mixed", [0, 0, 0, 0, 0, 1, 1, 1, 1, 1], columns=pixels)
    table = _table(tmp_path)
    assert table[("fastv", "1")]["by"] == "complexity"
    assert (table[("fastv", "1")]["accuracy"], table[("fastv", "2")]["accuracy"]) == (1, 0)
    quarters = [name for method, name in table if method == "fastv" and " to " in name]
    assert quarters == [
        "10 to 30 tokens", "40 to 50 tokens", "60 to 70 tokens", "80 to 100 tokens"
    ]  # fmt: skip
    assert sum(table[("fastv", name)]["n"] for name in quarters) == 10
    evidence = table[("resize", "9 tokens")]
    assert (evidence["by"], evidence["n"], evidence["accuracy"]) == ("evidence", 5, 1)
    assert evidence["unpruned"] == 1
    assert evidence["in_headline"] == "no"
    assert not [name for _, name in table if name == "headline"], "no kinds, no headline"


def test_what_is_alike_for_all_samples_is_no_group(tmp_path: Path) -> None:
    cell(tmp_path, "none", "mixed", [1.0] * 10, columns=SIZES)
    cell(tmp_path, "fastv", "mixed", [1.0] * 10, columns=SIZES)
    table = _table(tmp_path)
    assert {row["by"] for row in table.values()} == {"complexity", "image"}
    assert (tmp_path / "figures" / "slices.png").is_file()
    assert not (tmp_path / "figures" / "by_type.png").exists()


def test_without_the_unpruned_model_kinds_are_drawn_without_a_headline(tmp_path: Path) -> None:
    kinds = {"question_type": ["color"] * 5 + ["shape"] * 5}
    for method, right in (("hero", 2), ("fastv", 8)):
        cell(tmp_path, method, "mixed", [1.0] * right + [0.0] * (10 - right), columns=kinds)
    report.build(tmp_path)
    types = pd.read_csv(tmp_path / "by_type.csv", dtype={"budget": str})
    figure = slices.kinds(types)
    (ax,) = figure.axes
    assert [label.get_text() for label in ax.get_xticklabels()] == ["color", "shape"]
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == ["fastv 50 %", "hero 50 %"], "the best first"
    assert "headline" not in ax.get_title()


def _kinds_of(study: str) -> Axes:
    """The figure of kinds of a committed study."""
    folder = Path(__file__).parents[1] / "results" / study
    types = pd.read_csv(folder / "by_type.csv", dtype={"budget": str}, keep_default_na=False)
    for name in ("accuracy", "perfect", "evidence_recall"):
        types[name] = pd.to_numeric(types[name])
    return slices.kinds(types).axes[0]


def test_the_figure_of_kinds_says_what_it_shows() -> None:
    title = _kinds_of("tiny-qwen3-vl").get_title()
    assert "every method where it keeps least of the evidence" in title
    assert "headline: mean over kinds that the unpruned model can answer" in title


def test_the_headline_stands_behind_the_kinds_of_all_tasks() -> None:
    labels = [
        label.get_text() for label in _kinds_of("tiny-qwen2.5-vl-video-films").get_xticklabels()
    ]
    assert labels.index("headline") == len(labels) - 1


# ---- intervals -----------------------------------------------------------------------------------

ANSWERS = [1.0, 1, 1, 0, 1, 0, 1, 1, 0, 1, 1, 1]


def _rows(study: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """The same without figures, which take seconds."""
    records, warnings = cells.read(study)
    rows = tables.texts(board.records(by_type.fold(records, warnings.append)), by_type.COLUMNS)
    assert warnings == []
    return {(row["method"], row["type"]): row for row in board.records(rows)}


def _widths(study: Path, method: str = "fastv") -> dict[str, float]:
    """How wide the interval of each group of a method is."""
    widths = {}
    for (name, group), row in _rows(study).items():
        if name == method and group != "headline":
            widths[group] = float(row["accuracy_high"]) - float(row["accuracy_low"])
    return widths


def _copies(folder: Path, copies: int, method: str = "fastv", seeds: int = 1) -> Path:
    """Twelve images of each of which the same question is asked several times."""
    kinds = ["color", "shape"] * 6
    columns: dict[str, Any] = {
        "question_type": [kind for kind in kinds for _ in range(copies)],
        "image": [f"{number:x}" for number in range(12) for _ in range(copies)],
        "complexity": [1 + (number > 5) for number in range(12) for _ in range(copies)],
    }
    scores = [score for score in ANSWERS for _ in range(copies)]
    for seed in range(seeds):
        cell(folder, method, "mixed", scores, columns=columns, seed=seed)
    return folder


def test_asking_an_image_again_makes_no_interval_narrower(tmp_path: Path) -> None:
    once, thrice = _copies(tmp_path / "once", 1), _copies(tmp_path / "thrice", 3)
    assert _widths(thrice) == pytest.approx(_widths(once))
    assert _rows(thrice)[("fastv", "color")]["n"] == "18", "they are counted all the same"


def test_seeds_that_answer_alike_make_no_interval_narrower(tmp_path: Path) -> None:
    once, thrice = _copies(tmp_path / "once", 1), _copies(tmp_path / "thrice", 1, seeds=3)
    assert _widths(thrice) == pytest.approx(_widths(once))
    # a question counts once, as in the leaderboard
    for group in ("color", "headline"):
        assert _rows(thrice)[("fastv", group)]["n"] == _rows(once)[("fastv", group)]["n"]


def test_images_of_more_questions_than_others_spread_nothing_by_that(tmp_path: Path) -> None:
    """Where all is right the interval is that of as many images that were all right."""
    images = ["a", "b", "b", "b", "c", "c"]
    columns: dict[str, Any] = {"question_type": ["color"] * 6, "image": images}
    cell(tmp_path, "fastv", "mixed", [1.0] * 6, columns=columns)
    row = _rows(tmp_path)[("fastv", "color")]
    assert float(row["accuracy_high"]) == 1.0
    assert float(row["accuracy_low"]) == pytest.approx(wilson(3, 3).low)


def test_images_that_are_all_alike_do_not_say_how_far_others_differ(tmp_path: Path) -> None:
    columns: dict[str, Any] = {"question_type": ["color"] * 6, "image": list("aabbcc")}
    cell(tmp_path, "fastv", "mixed", [1.0, 0.0] * 3, columns=columns)
    row = _rows(tmp_path)[("fastv", "color")]
    assert (row["accuracy"], row["accuracy_low"], row["accuracy_high"]) == ("0.5", "", "")


def test_the_interval_of_images_is_students_over_what_they_add(tmp_path: Path) -> None:
    columns: dict[str, Any] = {"question_type": ["color"] * 6, "image": list("aabbcc")}
    cell(tmp_path, "fastv", "mixed", [1.0, 1.0, 1.0, 0.0, 1.0, 1.0], columns=columns)
    row = _rows(tmp_path)[("fastv", "color")]
    # images add 1, 1/2 and 1: a mean of 5/6 with a standard error of 1/6
    assert float(row["accuracy_low"]) == pytest.approx(5 / 6 - 4.302652730 / 6)
    assert float(row["accuracy_high"]) == 1.0, "no share is larger"
