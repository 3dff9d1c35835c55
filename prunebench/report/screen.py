"""Screen: the leaderboard as a terminal table of 100 columns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from prunebench.report import leaderboard
from prunebench.report.cells import BASELINE
from prunebench.report.leaderboard import ALL

MISSING = "-"
NO_BETTER = "✗"
HEADINGS = ("method", "budget", "accuracy", "rel.", "tokens", "FLOPs", "prefill", "total", "evidence", "vs random")
LESSER = ("rel.", "prefill", "FLOPs", "evidence", "total")
"""What a narrow screen does without, in this order."""

REASON = 160


def terminal(study: Path, width: int = 100) -> Table:
    """The study's leaderboard.csv, pooled over tasks; what did not run is listed below with its reason.

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
    table = Table(title=_title(study, board), title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD)
    table.pad_edge, table.padding = False, (0, 1, 0, 0)
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "method" else "right", no_wrap=True)
    notes: list[str] = []
    models = board["model"].unique()
    for model, of_model in board.groupby("model", sort=False):
        if len(models) > 1:
            table.add_section()
            table.add_row(Text(str(model), style="bold"))
        for _, group in of_model.groupby(["budget", "budget_kind"], sort=False):
            for row in records(group):
                line = dict(zip(HEADINGS, _line(row, notes), strict=True))
                table.add_row(*(line[heading] for heading in headings))
            table.add_section()
    table.caption = _caption(board, notes)
    return table


def overall(board: pd.DataFrame) -> pd.DataFrame:
    """The rows that stand for a whole model: its "all" rows, or those of its only task."""
    pooled = set(board.loc[board["task"] == ALL, "model"])
    return board[(board["task"] == ALL) | ~board["model"].isin(pooled)]


def records(board: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as dictionaries."""
    return [{str(name): value for name, value in row.items()} for row in board.to_dict("records")]


def budget_label(row: dict[str, Any]) -> str:
    """The budget as it was asked: "25%", "64", with its kind where that is not the mean."""
    kind = row["budget_kind"]
    prefix = f"{kind}:" if kind not in ("", "mean") else ""
    try:
        amount = float(row["budget"])
    except ValueError:
        return prefix + str(row["budget"])
    return prefix + (row["budget"] if row["budget"].isdigit() else f"{100 * amount:.3g}%")


def _line(row: dict[str, Any], notes: list[str]) -> list[Text]:
    style = "dim" if row["control"] == "true" else ""
    if row["method"] == BASELINE:
        style = "bold"
    cells = [row["method"], budget_label(row)]
    if pd.isna(row["accuracy"]) and row["status"] != "ok":
        cells += [Text(row["status"], style="red"), *[MISSING] * 6]
    else:
        cells += _numbers(row)
    if row["reason"]:
        notes.append(f"{row['method']} {budget_label(row)} {row['status']}: {_short(row['reason'])}")
    line = [cell if isinstance(cell, Text) else Text(cell, style=style) for cell in cells]
    return [*line, _against_random(row)]


def _numbers(row: dict[str, Any]) -> list[str]:
    half = (row["accuracy_high"] - row["accuracy_low"]) / 2
    margin = "" if pd.isna(half) else f" ±{half:.3f}"[:6].replace("±0.", "±.")
    recall = _number(row["evidence_recall"], "{:.2f}")
    if recall != MISSING and not pd.isna(row["evidence_recall_random"]):
        recall += f" ({row['evidence_recall_random']:.2f})".replace("(0.", "(.")
    tokens = "{:.0f}" if row["tokens_mean"] >= 100 else "{:.3g}"
    return [
        _number(row["accuracy"], "{:.3f}") + margin,
        _number(100 * row["relative_accuracy"], "{:.1f}%"),
        _number(row["tokens_mean"], tokens) + _number(100 * row["tokens_mean_share"], " ({:.0f}%)", ""),
        _number(row["flops_ratio"], "{:.2f}"),
        _number(row["prefill_ratio"], "{:.2f}"),
        _number(row["total_ratio"], "{:.2f}"),
        recall,
    ]


def _against_random(row: dict[str, Any]) -> Text:
    if pd.isna(row["difference_to_random"]):
        return Text(MISSING if row["method"] != BASELINE else "", style="dim")
    gap = f"{row['difference_to_random']:+.3f}"
    return Text(f"{gap} {NO_BETTER}", style="bold red") if row["better_than_random"] == "no" else Text(gap + "  ")


def _title(study: Path, board: pd.DataFrame) -> str:
    models = ", ".join(board["model"].unique())
    tasks = ", ".join("all tasks" if task == ALL else task for task in board["task"].unique() if task)
    count = board["n"].max()
    samples = "" if pd.isna(count) else f" · {count:.0f} samples"
    return " · ".join(part for part in (study.name, models, tasks) if part) + samples


def _caption(board: pd.DataFrame, notes: list[str]) -> str:
    lines = ["accuracy ± half its 95 % interval; tokens entering an LLM layer; FLOPs and times over unpruned"]
    lines.append("evidence: share of its tokens alive, mean over LLM layers (by random at the same budget)")
    if (board["better_than_random"] == "no").any():
        lines.append(f"{NO_BETTER} not better than random at 95 %")
    return "\n".join([*lines, *dict.fromkeys(notes)])


def _number(value: float, form: str, missing: str = MISSING) -> str:
    return missing if pd.isna(value) else form.format(value)


def _short(reason: str) -> str:
    return reason if len(reason) <= REASON else reason[: REASON - 1] + "…"
