"""The leaderboard on a terminal and in a pipe, and what others wrote in it."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hand_written import (
    board_of,
    cell,
    change,
    cost,
    fold,
    golden_study,
    metrics_of,
    printed,
)
from rich.console import Console

from prunebench.border.text import clean
from prunebench.report import figures, screen, tables
from prunebench.study import cells


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return golden_study(tmp_path / "study")


def test_a_narrow_terminal_keeps_what_identifies_a_row(study: Path) -> None:
    fold(study)
    console = Console(width=62, file=io.StringIO(), record=True)
    console.print(screen.terminal(study, 62))
    text = console.export_text()
    heading = next(line for line in text.splitlines() if "method" in line)
    assert all(word in heading for word in ("budget", "accuracy", "tokens"))
    assert "vs random" in heading
    assert "rel." not in heading
    assert "…" not in text


def test_half_an_interval_is_rounded_not_cut(study: Path) -> None:
    fold(study)
    # the random control's interval is .1270 to .4592, so half of it is .1661
    assert "0.250 ±.17" in printed(study, 120)


PIPED = "import sys; from prunebench.cli import main; sys.exit(main(['report', sys.argv[1]]))"


def piped(study: Path, columns: int) -> list[str]:
    """What `prunebench report` with COLUMNS in its environment writes into a pipe."""
    process = subprocess.run(
        [sys.executable, "-c", PIPED, str(study)],
        env=os.environ | {"COLUMNS": str(columns)},
        capture_output=True,
        text=True,
        check=True,
    )
    return process.stdout.splitlines()


def wide_study(study: Path) -> Path:
    """Budgets of the cache, a method with a long name, and a cost cell for every column."""
    for method in ("none", "random", "glimpseprune_plus"):
        for task in ("color", "count"):
            budget_kind = "" if method == "none" else "kv"
            cell(study, method, task, [1, 1, 0, 1], budget_kind=budget_kind)
    cost(study, "glimpseprune_plus", "color", 0.7, 0.8, budget_kind="kv")
    cell(
        study,
        "glimpseprune_plus",
        "color",
        None,
        budget="0.1",
        budget_kind="kv",
        status="unsupported",
        reason="glimpseprune_plus needs a model that was trained for it",
    )
    fold(study)
    return study


@pytest.mark.parametrize("columns", [80, 60])
def test_a_table_in_a_pipe_honours_columns_and_cuts_no_number(tmp_path: Path, columns: int) -> None:
    check_fits(piped(wide_study(tmp_path), columns), columns)


@pytest.mark.parametrize("columns", [120, 100, 40])
def test_a_table_fits_its_screen_and_cuts_no_number(tmp_path: Path, columns: int) -> None:
    check_fits(printed(wide_study(tmp_path), columns).splitlines(), columns)


def check_fits(lines: list[str], columns: int) -> None:
    """That no line of a wide study's table is longer, and every number is whole."""
    assert max(map(len, lines)) <= columns
    assert "…" not in "\n".join(lines)
    numbers = [line for line in lines if "0.750 ±" in line]
    assert len(numbers) == 3
    assert all(("50 %" in line) or ("100 %" in line) for line in numbers)
    assert any("unsupported" in line for line in lines[:15])


def headings(study: Path, width: int) -> list[str]:
    """The headings of the table at a width, in their order."""
    return [str(column.header) for column in screen.terminal(study, width).columns]


def test_a_table_that_narrows_loses_its_columns_in_the_stated_order(tmp_path: Path) -> None:
    study = wide_study(tmp_path)
    before = headings(study, 200)
    assert len(before) == len(screen.HEADINGS), "nothing is missing"
    lost = []
    for width in range(120, 20, -1):
        now = headings(study, width)
        lost += [heading for heading in before if heading not in now]
        before = now
    assert lost == [*screen.LESSER, "vs random", "KV tokens"]
    assert before == ["method", "budget", "accuracy"]


def test_columns_without_a_number_go_first(tmp_path: Path) -> None:
    cell(tmp_path, "none", "color", [1, 1])
    cell(tmp_path, "fastv", "color", [1, 0])
    fold(tmp_path)
    assert headings(tmp_path, 100) == list(screen.HEADINGS)
    narrow = headings(tmp_path, 78)
    assert [name for name in screen.HEADINGS if name not in narrow] == [
        "prefill",
        "total",
        "vs random",
    ]
    text = " ".join(printed(tmp_path, 78).split())
    assert "without prefill, total, vs random: leaderboard.csv has all columns" in text


def test_terminal_fits_and_flags(study: Path) -> None:
    cell(study, "uniform", "color", [0] * 10, control=True)
    cell(study, "uniform", "count", [0] * 10, control=True)
    fold(study)
    text = printed(study)
    assert max(map(len, text.splitlines())) <= 100
    lines = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    assert screen.SIGNS["no difference shown"] in lines["uniform"]
    assert "…" not in lines["method"] + lines["uniform"]
    assert "≈ no difference shown: at 95 %" in text
    assert "fastv at 5 % infeasible: budget 0.05 is out of reach" in " ".join(text.split())


HOSTILE = "[/bold] [red]x[/red] \x1b[31m$\\frac{1$ \u202eabc \ud7ff 名前"


def hostile_study(study: Path) -> Path:
    """Names, settings and a reason that would do something where they are read as code."""
    facts: dict[str, Any] = {"model": f"@{HOSTILE}", "settings": {"key": HOSTILE}}
    failure: dict[str, Any] = {"status": "failed", "reason": f"=HYPERLINK(1) {HOSTILE}\nmore"}
    folders = {
        "none": cell(study, "none", "t0", [1, 0, 1], **facts),
        f"-{HOSTILE}": cell(study, "none", "t1", [1, 0, 1], **facts),
        "pool": cell(study, "none", "t2", None, **facts, **failure),
    }
    for method, folder in folders.items():
        change(folder, method=method, task=f"+{HOSTILE}")
    return study


def test_what_others_wrote_cannot_act_on_a_spreadsheet(tmp_path: Path) -> None:
    records, _ = cells.read(hostile_study(tmp_path))
    tables.write_lines(tmp_path / "metrics.csv", tables.COLUMNS, tables.metrics(records))
    board = board_of(tmp_path)
    assert set(board["model"]) == {clean(f"@{HOSTILE}")}
    assert formulas(tmp_path / "metrics.csv") == {"'@", "'+", "'-"}
    assert formulas(tmp_path / "leaderboard.csv") == {"'@", "'+", "'-", "'="}


def formulas(path: Path) -> set[str]:
    """How the fields begin that would be formulas but for their apostrophe; no other is one."""
    text = path.read_text()
    assert "\x1b" not in text
    assert "\u202e" not in text
    beginnings = set()
    for line in csv.reader(io.StringIO(text)):
        for field in line:
            if field.startswith(("'=", "'+", "'-", "'@")):
                beginnings.add(field[:2])
            assert not field.startswith(("=", "+", "-", "@")) or is_number(field)
    return beginnings


@pytest.mark.filterwarnings("ignore::UserWarning")  # letters that the font lacks
def test_what_others_wrote_cannot_act_on_a_terminal_or_a_figure(tmp_path: Path) -> None:
    board = board_of(hostile_study(tmp_path))
    figures.save(figures.pareto(board), tmp_path / "pareto.png")
    assert "$\\frac{1$" in figures.accuracy(board).axes[0].get_title()
    text = printed(tmp_path, 400)
    assert "\x1b" not in text
    assert "[/bold] [red]x[/red]" in text
    assert "=HYPERLINK(1) [/bold] [red]x[/red]" in text


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def test_an_apostrophe_of_ones_own_survives_the_tables() -> None:
    for text in ("'=1", "'", "''", "=1+1", "-0.5", "plain", "", "\t=1"):
        assert tables.unguarded(tables.text(text)) == text
        assert not tables.text(text).startswith(("=", "-", "\t"))
    assert tables.text(-0.5) == "-0.5"


def test_a_reason_is_said_once_for_all_budgets(tmp_path: Path) -> None:
    cell(tmp_path, "none", "color", [1, 1])
    for budget in ("0.5", "0.25", "0.1"):
        reasons = {
            "hero": ("unsupported", "hero needs tiles"),
            "fastv": ("infeasible", f"budget {budget} is out of reach at llm:2"),
            "pool": ("failed", f"broke at {budget}"),
        }
        for method, (status, reason) in reasons.items():
            cell(tmp_path, method, "color", None, budget=budget, status=status, reason=reason)
    fold(tmp_path)
    text = printed(tmp_path)
    assert text.count("hero needs tiles") == 1
    assert "hero at 50 %, 25 %, 10 % unsupported: hero needs tiles" in text
    assert "fastv at 50 %, 25 %, 10 % infeasible: budget 0.5 is out of reach" in text
    assert text.count("broke at") == 3


def test_a_study_of_kv_budgets_shows_kv_tokens(tmp_path: Path) -> None:
    def metrics(kv: float) -> list[dict[str, Any]]:
        values = {
            "score": 1.0,
            "tokens_available": 16.0,
            "tokens_mean": 11.0,
            "tokens_input": 16.0,
            "tokens_kv": kv,
        }
        return metrics_of(values)

    cell(tmp_path, "none", "color", [1, 1], metrics=metrics(16))
    cell(tmp_path, "random", "color", [1, 1], budget_kind="kv", metrics=metrics(8))
    board = board_of(tmp_path)
    text = printed(tmp_path)
    assert "KV tokens" in text
    assert "8 (50 %)" in text
    assert "11 (69 %)" not in text
    ax = figures.accuracy(board).axes[0]
    assert "KV cache" in ax.get_xlabel()
    ticks = [tick.get_text() for tick in ax.get_xticklabels()]
    assert ticks == ["16\n(100 %)", "8\n(50 %)"]
    cell(tmp_path, "uniform", "color", [1, 1], metrics=metrics(8))
    fold(tmp_path)
    assert "KV tokens" not in printed(tmp_path), "budgets of several kinds share the mean"
    assert "11 (69 %)" in printed(tmp_path)
