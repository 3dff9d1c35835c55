"""What a reader sees of a study's page: nothing cut off, and no claim beyond its numbers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from browser import chromium, visit
from hand_written import board_of, fold, golden_study

from prunebench import page
from prunebench.cli import about
from prunebench.study import cells
from prunebench.study.pairwise import UNSHOWN

RESULTS = Path(__file__).parents[1] / "results"

WIDE = """() => [...document.querySelectorAll(".card, .answer, label.field, .chip")].filter(
  (one) => one.scrollWidth > one.clientWidth + 1).map((one) => one.textContent)"""
"""What does not fit into its box."""

SQUEEZED = """() => [...document.querySelectorAll(".card .name")].filter(
  (one) => one.getBoundingClientRect().height > 60).map((one) => one.textContent)"""
"""Names that are broken into pieces."""


def written(study: Path) -> Path:
    """The page of a folder with its tables as they are."""
    records, _ = cells.read(study)
    return page.write(study, records, about.of_cells(records)).path


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a committed study, of its committed tables."""
    folder = tmp_path_factory.mktemp("committed") / "tiny-qwen3-vl"
    shutil.copytree(RESULTS / "tiny-qwen3-vl", folder)
    return written(folder)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as one:
        yield one


@pytest.mark.parametrize("width", [1200, 900, 390])
def test_nothing_is_cut_off(browser: Any, file: Path, width: int) -> None:
    with visit(browser, file, "view=choose", width) as seen:
        for view in ("choose", "plot", "methods", "questions", "board"):
            seen.go(f"view={view}&loss=0.05")
            assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
            assert seen.page.evaluate(WIDE) == []
            assert seen.page.evaluate(SQUEEZED) == []
        assert seen.faults == []


def test_a_choice_says_which_methods_differ_from_the_best(browser: Any, file: Path) -> None:
    with visit(browser, file, "view=choose&spend=0.26") as seen:
        cards = seen.page.locator(".cards").first.locator(".card").all_inner_texts()
        best = cards[0].split()[0]
        pairs = pd.read_csv(file.parent / "pairs.csv", dtype={"budget": str})
        verdicts = {}
        for pair in pairs[pairs["budget"] == "0.25"].to_dict("records"):
            verdicts[frozenset((pair["method"], pair["other"]))] = pair["verdict"]
        for card in cards[1:]:
            is_open = verdicts[frozenset((best, card.split()[0]))] == UNSHOWN
            assert ("no difference from the best shown" in card) == is_open
            assert ("worse than the best" in card) == (not is_open)
        seen.go("view=choose&spend=0.26&type=color")
        said = seen.page.locator("main").inner_text()
        assert "no difference from the best shown" not in said, "pairs are of all kinds"


def test_where_every_method_loses_more_one_reads_what_the_least_is(
    browser: Any, file: Path
) -> None:
    with visit(browser, file, "view=choose&loss=0.02") as seen:
        note = seen.page.locator("main .note").inner_text()
        words = note.replace("\N{MINUS SIGN}", "-").replace("\xa0", " ")
        assert "The least is lost by visionzip at 50 %: -0.028 (-0.046 to -0.012)" in words
        seen.go("view=choose&loss=0.03")
        assert seen.page.locator(".cards").nth(1).inner_text().startswith("visionzip")


def test_a_control_that_is_the_best_is_named_as_one(browser: Any, file: Path) -> None:
    with visit(browser, file, "view=choose&spend=0.26&find=uniform") as seen:
        assert seen.page.locator(".card h3").inner_text().split() == ["uniform", "control", "best"]


@pytest.mark.parametrize("machine", ["busy", "quiet"])
def test_times_of_a_busy_machine_choose_nothing(browser: Any, tmp_path: Path, machine: str) -> None:
    study = golden_study(tmp_path / "study")
    fold(study)
    board = board_of(study)
    board["machine"] = ["" if method == "none" else machine for method in board["method"]]
    board.to_csv(study / "leaderboard.csv", index=False)
    state = "view=choose&task=color&cost=total_ratio&spend=2&loss=1"
    with visit(browser, written(study), state) as seen:
        assert (seen.page.locator(".card").count() == 0) == (machine == "busy")
        said = seen.page.locator("main").inner_text()
        assert ("2 rows were timed on a busy machine" in said) == (machine == "busy")


def test_of_one_kind_of_question_no_row_bears_the_verdict_of_all(browser: Any, file: Path) -> None:
    with visit(browser, file, "view=board&type=count&columns=method,accuracy,against_none") as seen:
        assert seen.page.locator("#main .mark").count() == 0
        seen.go("view=board&type=count")
        headings = [text.strip() for text in seen.texts(".tabulator-col-title")]
        of_all = {"against none", "against random", "fidelity", "right to wrong", "hard"}
        assert of_all.isdisjoint(headings)
        # and the most accurate comes first at every budget
        values = seen.page.evaluate(
            "boardRows().filter((row) => row.budget === '0.25').map((row) => row.accuracy)"
        )
        assert values == sorted(values, reverse=True)


def test_a_row_without_an_accuracy_says_why(browser: Any, file: Path) -> None:
    with visit(browser, file, "view=board&budget=mean:0.5") as seen:
        (cell,) = seen.page.locator(".tabulator-row [tabulator-field=accuracy] .mark").all()
        assert cell.inner_text() == "infeasible"
        assert "out of reach at llm:8" in cell.get_attribute("title")


def test_a_table_of_pairs_begins_with_what_it_is_read_for(browser: Any, file: Path) -> None:
    with visit(browser, file, "view=board&table=pairs") as seen:
        titles = [text.strip() for text in seen.texts(".tabulator-col-title")]
        assert titles[:7] == ["method", "budget", "other", "verdict", "difference", "p holm", "n"]
        texts = {
            one.inner_text().strip(): one.get_attribute("title")
            for one in seen.page.locator(".tabulator-col-title > span").all()
        }
        assert "samples that both answered" in texts["n"]
        assert "as many samples show" in texts["smallest"]


def test_kinds_stand_side_by_side_with_their_mean_first(browser: Any, file: Path) -> None:
    with visit(browser, file, "view=board&table=by_type") as seen:
        titles = [text.strip() for text in seen.texts(".tabulator-col-title")]
        assert titles[:3] == ["method", "budget", "headline"]
        assert "headline: mean over the kinds" in seen.page.locator("main").inner_text()
        methods = [text.strip() for text in seen.texts(".tabulator-row [tabulator-field=method]")]
        assert methods[:2] == ["none", "visionzip"], "in the leaderboard's order"
        seen.go("view=board&table=by_type&type=count")
        assert seen.page.locator("[data-name=wide]").count() == 0, "one kind is no row of kinds"


def test_a_chart_says_what_its_axes_and_marks_are(browser: Any, file: Path) -> None:
    with visit(browser, file, "view=plot") as seen:
        title = seen.page.evaluate("document.querySelector('.plot').layout.xaxis.title.text")
        assert title == "visual tokens, mean over layers (share of unpruned)"
        said = seen.page.locator("main").inner_text()
        assert "A point that no line joins is a method's own operating point" in said
        line = "document.querySelector('.plot').data.find((one) => one.line.dash === 'dash')"
        # the controls alone: a frontier of one point goes on to the end of what was spent
        seen.go("view=plot&find=uniform&budget=mean:0.1")
        assert seen.page.evaluate(f"{line}.x.length") >= 2
