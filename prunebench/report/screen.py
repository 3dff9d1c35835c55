"""Screen: the leaderboard as a terminal table of 100 columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from prunebench.border.text import one_line
from prunebench.report import leaderboard
from prunebench.report.board import budget_kind, budget_label, overall, records
from prunebench.report.leaderboard import ALL
from prunebench.study.record import BASELINE

MISSING = "-"
NO_BETTER = "✗"
HEADINGS = (
    "method",
    "budget",
    "accuracy",
    "rel.",
    "tokens",
    "FLOPs",
    "prefill",
    "total",
    "evidence",
    "vs random",
)
LESSER = ("rel.", "prefill", "FLOPs", "evidence", "total")
"""What a narrow screen does without, in this order."""

REASON = 160
NAME = 60
"""Characters of a reason and of a name that a line of the terminal bears."""

ONCE = ("infeasible", "unsupported")
"""Statuses that are a method's at a budget and below: their reason differs in numbers alone, and is
said once.
"""

TOKENS = {
    "mean": "tokens entering an LLM layer",
    "input": "tokens entering the first LLM layer",
    "kv": "KV tokens: in the cache after prefill, mean over LLM layers",
}
"""What the column of tokens counts, by the kind of budget that a study asks for."""


@dataclass(frozen=True)
class Note:
    """Why a row has no numbers, or fewer samples than the task."""

    method: str
    status: str
    budget: str
    reason: str


def terminal(study: Path, width: int = 100) -> Table:
    """The study's leaderboard.csv, pooled over tasks; what did not run is listed below with its
    reason.

    On a screen of fewer than 100 columns the lesser headings go, one by one.
    """
    board = overall(leaderboard.load(study / "leaderboard.csv"))
    table, headings = _table(study, board, HEADINGS), list(HEADINGS)
    for lesser in LESSER:
        if Console(width=1000).measure(table).maximum <= width:
            break
        headings.remove(lesser)
        table = _table(study, board, headings)
    return table


def _table(study: Path, board: pd.DataFrame, headings: Sequence[str]) -> Table:
    table = Table(title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD)
    table.title = Text(_title(study, board), style="table.title")
    table.pad_edge, table.padding = False, (0, 1, 0, 0)
    kind = budget_kind(board)
    for heading in headings:
        shown = "KV tokens" if heading == "tokens" and kind == "kv" else heading
        table.add_column(shown, justify="left" if heading == "method" else "right", no_wrap=True)
    notes: list[Note] = []
    models = board["model"].unique()
    for model, of_model in board.groupby("model", sort=False):
        if len(models) > 1:
            table.add_section()
            table.add_row(Text(one_line(str(model), NAME), style="bold"))
        for _, group in of_model.groupby(["budget", "budget_kind"], sort=False):
            for row in records(group):
                notes += _notes(row, len(models) > 1)
                line = dict(zip(HEADINGS, _line(row, kind), strict=True))
                table.add_row(*(line[heading] for heading in headings))
            table.add_section()
    table.caption = Text(_caption(board, kind, notes), style="table.caption")
    return table


def _notes(row: dict[str, Any], several: bool) -> list[Note]:
    if not row["reason"]:
        return []
    who = one_line(f"{row['model']}: {row['method']}" if several else row["method"], 2 * NAME)
    budget = "" if row["method"] == BASELINE else budget_label(row)
    return [Note(who, one_line(row["status"], NAME), budget, one_line(row["reason"], REASON))]


def _line(row: dict[str, Any], kind: str) -> list[Text]:
    style = "dim" if row["control"] == "true" else ""
    if row["method"] == BASELINE:
        style = "bold"
    cells: list[str | Text] = [one_line(row["method"], NAME), budget_label(row)]
    if pd.isna(row["accuracy"]) and row["status"] != "ok":
        cells += [Text(one_line(row["status"], NAME), style="red"), *[MISSING] * 6]
    else:
        cells += _numbers(row, kind)
    line = [cell if isinstance(cell, Text) else Text(cell, style=style) for cell in cells]
    return [*line, _against_random(row)]


def _numbers(row: dict[str, Any], kind: str) -> list[str]:
    half = (row["accuracy_high"] - row["accuracy_low"]) / 2
    margin = "" if pd.isna(half) else f" ±{half:.3f}"[:6].replace("±0.", "±.")
    recall = _number(row["evidence_recall"], "{:.2f}")
    if recall != MISSING and not pd.isna(row["evidence_recall_random"]):
        recall += f" ({row['evidence_recall_random']:.2f})".replace("(0.", "(.")
    tokens, share = row[f"tokens_{kind}"], row[f"tokens_{kind}_share"]
    form = "{:.0f}" if tokens >= 100 else "{:.3g}"
    return [
        _number(row["accuracy"], "{:.3f}") + margin,
        _number(100 * row["relative_accuracy"], "{:.1f}%"),
        _number(tokens, form) + _number(100 * share, " ({:.0f}%)", ""),
        _number(row["flops_ratio"], "{:.2f}"),
        _number(row["prefill_ratio"], "{:.2f}"),
        _number(row["total_ratio"], "{:.2f}"),
        recall,
    ]


def _against_random(row: dict[str, Any]) -> Text:
    if pd.isna(row["difference_to_random"]):
        return Text(MISSING if row["method"] != BASELINE else "", style="dim")
    gap = f"{row['difference_to_random']:+.3f}"
    return (
        Text(f"{gap} {NO_BETTER}", style="bold red")
        if row["better_than_random"] == "no"
        else Text(gap + "  ")
    )


def _title(study: Path, board: pd.DataFrame) -> str:
    models = ", ".join(one_line(model, NAME) for model in board["model"].unique())
    tasks = ", ".join(
        "all tasks" if task == ALL else one_line(task, NAME)
        for task in board["task"].unique()
        if task
    )
    count = board["n"].max()
    samples = "" if pd.isna(count) else f" · {count:.0f} samples"
    return (
        " · ".join(part for part in (one_line(study.name, NAME), models, tasks) if part) + samples
    )


def _caption(board: pd.DataFrame, kind: str, notes: Sequence[Note]) -> str:
    lines = [f"accuracy ± half its 95 % interval; {TOKENS[kind]}; FLOPs and times over unpruned"]
    lines.append(
        "evidence: share of its tokens alive, mean over LLM layers (by random at the same budget)"
    )
    if (board["better_than_random"] == "no").any():
        lines.append(f"{NO_BETTER} not better than random at 95 %")
    return "\n".join([*lines, *_grouped(notes)])


def _grouped(notes: Sequence[Note]) -> list[str]:
    """A line for notes that say the same of one method, with their budgets: "fastv at 25%, 10%
    infeasible: ...".
    """
    groups: dict[tuple[str, ...], list[Note]] = {}
    for note in notes:
        key = (
            (note.method, note.status)
            if note.status in ONCE
            else (note.method, note.status, note.reason)
        )
        groups.setdefault(key, []).append(note)
    lines = []
    for group in groups.values():
        first = group[0]
        budgets = ", ".join(dict.fromkeys(note.budget for note in group if note.budget))
        where = f" at {budgets}" if budgets else ""
        lines.append(f"{first.method}{where} {first.status}: {first.reason}")
    return lines


def _number(value: float, form: str, missing: str = MISSING) -> str:
    return missing if pd.isna(value) else form.format(value)
