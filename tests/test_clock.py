"""Clock: rows whose times a busy machine spoiled are marked, and no frontier is made of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hand_written import board_of, cell, change, cost, facts_of, fold, printed, row

from prunebench.report import figures, paper_tables
from prunebench.report.best import Query, best
from prunebench.study.machine import RULE

SCORES = {"none": [1, 1, 1, 1], "fastv": [1, 1, 1, 1], "pool": [1, 1, 0, 0]}


def timed(study: Path, method: str, total: float, itself: tuple[float, float, float]) -> None:
    """A method with that time over the unpruned model's, while that took so long beside itself."""
    cell(study, method, "color", SCORES[method])
    folder = cost(study, method, "color", total, total)
    value, low, high = itself
    ratio = {"metric": "latency_itself_ratio", "value": value, "ci_low": low, "ci_high": high}
    ceiling = {"metric": "total_ceiling", "value": 0.4}
    reached = {"metric": "total_reached", "value": (1 - total) / 0.6}
    more = [{"unit": "ratio", "n": 9, **one} for one in (ratio, ceiling, reached)]
    change(folder, metrics=[*facts_of(folder)["metrics"], *more])


@pytest.mark.parametrize(
    ("itself", "machine"),
    [
        ((1.0, 0.97, 1.03), "quiet"),
        ((1.0, 0.7, 1.3), "busy"),  # too wide to tell anything
        ((1.06, 1.02, 1.08), "busy"),  # it grew slower all the while
    ],
)
def test_a_busy_machine_is_marked(
    tmp_path: Path, itself: tuple[float, float, float], machine: str
) -> None:
    timed(tmp_path, "fastv", 0.7, itself)
    cell(tmp_path, "none", "color", SCORES["none"])
    fold(tmp_path)
    numbers = row(tmp_path, "fastv", "color")
    assert numbers["machine"] == machine
    assert numbers["itself_ratio_high"] == pytest.approx(itself[2])
    assert (numbers["total_ceiling"], numbers["total_reached"]) == pytest.approx((0.4, 0.5))
    assert row(tmp_path, "none", "color", "1.0")["machine"] == ""
    assert ("0.70 busy" in printed(tmp_path)) == (machine == "busy")


@pytest.mark.parametrize("page", ["latency.md", "tutorials/read_a_leaderboard.md"])
def test_the_rule_stands_in_the_documentation_word_for_word(page: str) -> None:
    text = (Path(__file__).parents[1] / "docs" / page).read_text()
    assert RULE in " ".join(text.split())


def test_too_few_runs_say_nothing_of_the_machine(tmp_path: Path) -> None:
    timed(tmp_path, "fastv", 0.7, (1.4, None, None))  # type: ignore[arg-type]
    fold(tmp_path)
    assert row(tmp_path, "fastv", "color")["machine"] == ""


def test_a_study_without_times_has_no_such_columns(tmp_path: Path) -> None:
    cell(tmp_path, "none", "color", SCORES["none"])
    fold(tmp_path)
    assert "machine" not in row(tmp_path, "none", "color", "1.0")


def test_no_frontier_over_times_of_a_busy_machine(tmp_path: Path) -> None:
    for name, noise in (("busy", 0.3), ("quiet", 0.01)):
        study = tmp_path / name
        cell(study, "none", "color", SCORES["none"])
        timed(study, "fastv", 0.7, (1.0, 1 - noise, 1 + noise))
        timed(study, "pool", 0.6, (1.0, 0.99, 1.01))
        flops, time = figures.pareto(board_of(study)).axes
        assert "busy" not in flops.get_xlabel()
        assert ("busy machine: 1 of 3" in time.get_xlabel()) == (name == "busy")
        names = {text.get_text() for text in time.texts}
        assert ("fastv 50 %" in names) == (name == "quiet")


def test_no_best_by_times_of_a_busy_machine(tmp_path: Path) -> None:
    cell(tmp_path, "none", "color", SCORES["none"])
    timed(tmp_path, "fastv", 0.7, (1.0, 0.7, 1.3))
    notes: list[str] = []
    (answer,) = best(tmp_path, Query(loss=0.5), notes.append)
    assert answer.left_out == ("total_ratio was measured on a busy machine: fastv 50 %",)


def test_a_papers_table_marks_times_of_a_busy_machine(tmp_path: Path) -> None:
    for name, noise in (("busy", 0.3), ("quiet", 0.01)):
        study = tmp_path / name
        cell(study, "none", "color", SCORES["none"])
        timed(study, "fastv", 0.7, (1.0, 1 - noise, 1 + noise))
        board = board_of(study)
        caption = paper_tables.caption(board)
        table = paper_tables.markdown(board, paper_tables.Layout(["none", "fastv"], {}), caption)
        assert ("| 0.70 (busy) |" in table) == (name == "busy")
        assert ("measured on a busy machine" in table) == (name == "busy")
