"""Screen: the leaderboard as a table of the terminal, as wide as that is.

A number is never cut off. What does not fit leaves the table in a stated order: columns that no row
has a number for; the columns of LESSER, one by one; then names are wrapped; then the columns of
LAST. The line below the table says what is not shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from prunebench.border.text import one_line
from prunebench.report import leaderboard
from prunebench.report.board import NAME, budget_kind, budget_label, overall, records
from prunebench.report.leaderboard import ALL
from prunebench.study.record import BASELINE

MISSING = "-"
NO_BETTER = "✗"
NUMBERS = ("accuracy", "rel.", "tokens", "FLOPs", "prefill", "total", "evidence", "vs random")
HEADINGS = ("method", "budget", *NUMBERS)
LESSER = ("rel.", "prefill", "FLOPs", "evidence", "total")
"""What a narrow screen does without, in this order."""

LAST = ("vs random", "tokens")
"""What goes where not even that is enough; method, budget and accuracy always stay."""

NARROWEST_NAME = 12
"""Characters on a line of a name that is wrapped."""

REASON = 160
"""Characters of a reason that a line of the terminal bears."""

UNBOUNDED = 10_000
"""Columns of a console that squeezes nothing, for measuring."""

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

Cells = dict[str, Text]
"""One line of the table, by heading."""


@dataclass(frozen=True)
class Note:
    """Why a row has no numbers, or fewer samples than the task."""

    method: str
    status: str
    budget: str
    reason: str


@dataclass(frozen=True)
class Block:
    """Lines that stand together: one budget of one model. `model` is its name where it begins a
    model's part of a table of several.
    """

    model: str
    lines: list[Cells]


@dataclass(frozen=True)
class Layout:
    """What is shown, and how wide names may be before they are wrapped."""

    headings: tuple[str, ...]
    name_width: int


@dataclass(frozen=True)
class Content:
    """All that a table can show, before it is fitted to a width."""

    title: str
    kind: str
    blocks: list[Block]
    notes: list[Note]
    some_no_better: bool

    @property
    def lines(self) -> list[Cells]:
        """The lines of all blocks."""
        lines: list[Cells] = []
        for block in self.blocks:
            lines += block.lines
        return lines


def terminal(study: Path, width: int = 100) -> Table:
    """The study's leaderboard.csv, pooled over tasks, in at most `width` columns; what did not run
    is listed below with its reason.
    """
    board = overall(leaderboard.load(study / "leaderboard.csv"))
    content = _content(study, board)
    console = Console(width=UNBOUNDED)
    for layout in _layouts(content):
        table = _table(content, layout)
        if console.measure(table).maximum <= width:
            break
    return table


# ---- fitting -------------------------------------------------------------------------------------


def _layouts(content: Content) -> Iterator[Layout]:
    """Ways to show the table, the fullest first."""
    methods = [line["method"].cell_len for line in content.lines]
    models = [cell_len(block.model) for block in content.blocks]
    longest_method = max(methods, default=0)
    longest_name = max([longest_method, *models])
    yield Layout(HEADINGS, longest_name)
    headings = _with_numbers(content)
    yield Layout(headings, longest_name)
    yield Layout(headings, longest_method)  # models' names stand on lines of their own
    for lesser in LESSER:
        headings = tuple(heading for heading in headings if heading != lesser)
        yield Layout(headings, longest_method)
    narrowest = min(longest_method, NARROWEST_NAME)
    yield Layout(headings, narrowest)
    for last in LAST:
        headings = tuple(heading for heading in headings if heading != last)
        yield Layout(headings, narrowest)


def _with_numbers(content: Content) -> tuple[str, ...]:
    """The headings under which some line has more than a dash."""
    headings = []
    for heading in HEADINGS:
        texts = {line[heading].plain.strip() for line in content.lines}
        if heading not in NUMBERS or texts - {MISSING, ""}:
            headings.append(heading)
    return tuple(headings)


def _table(content: Content, layout: Layout) -> Table:
    table = Table(title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD)
    table.title = Text(content.title, style="table.title")
    table.pad_edge, table.padding = False, (0, 1, 0, 0)
    for heading in layout.headings:
        if heading == "method":
            width = max(layout.name_width, len(heading))
            table.add_column(heading, width=width, overflow="fold")
        else:
            label = "KV tokens" if heading == "tokens" and content.kind == "kv" else heading
            table.add_column(label, justify="right", no_wrap=True)
    for block in content.blocks:
        if block.model:
            table.add_section()
            table.add_row(Text(block.model, style="bold"))
        for line in block.lines:
            table.add_row(*(line[heading] for heading in layout.headings))
        table.add_section()
    table.caption = Text(_caption(content, layout.headings), style="table.caption")
    return table


# ---- content -------------------------------------------------------------------------------------


def _content(study: Path, board: pd.DataFrame) -> Content:
    kind = budget_kind(board)
    several = board["model"].nunique() > 1
    blocks: list[Block] = []
    notes: list[Note] = []
    for model, of_model in board.groupby("model", sort=False):
        name = one_line(str(model), NAME) if several else ""
        for _, group in of_model.groupby(["budget", "budget_kind"], sort=False):
            rows = records(group)
            blocks.append(Block(name, [_line(row, kind) for row in rows]))
            name = ""
            for row in rows:
                notes += _notes(row, several)
    some_no_better = bool((board["better_than_random"] == "no").any())
    return Content(_title(study, board), kind, blocks, notes, some_no_better)


def _notes(row: dict[str, Any], several: bool) -> list[Note]:
    if not row["reason"]:
        return []
    method = f"{row['model']}: {row['method']}" if several else row["method"]
    budget = "" if row["method"] == BASELINE else budget_label(row)
    status, reason = one_line(row["status"], NAME), one_line(row["reason"], REASON)
    return [Note(one_line(method, 2 * NAME), status, budget, reason)]


def _line(row: dict[str, Any], kind: str) -> Cells:
    style = "dim" if row["control"] == "true" else ""
    if row["method"] == BASELINE:
        style = "bold"
    texts = {"method": one_line(row["method"], NAME), "budget": budget_label(row)}
    if pd.isna(row["accuracy"]) and row["status"] != "ok":
        texts |= dict.fromkeys(NUMBERS, MISSING)
        line = {heading: Text(text, style=style) for heading, text in texts.items()}
        line["accuracy"] = Text(one_line(row["status"], NAME), style="red")
    else:
        texts |= _numbers(row, kind)
        line = {heading: Text(text, style=style) for heading, text in texts.items()}
    line["vs random"] = _against_random(row)
    return line


def _numbers(row: dict[str, Any], kind: str) -> dict[str, str]:
    """What stands under the headings of numbers, but for the last."""
    half = (row["accuracy_high"] - row["accuracy_low"]) / 2
    margin = "" if pd.isna(half) else f" ±{half:.3f}"[:6].replace("±0.", "±.")
    tokens, share = row[f"tokens_{kind}"], row[f"tokens_{kind}_share"]
    tokens_form = "{:.0f}" if tokens >= 100 else "{:.3g}"
    return {
        "accuracy": _number(row["accuracy"], "{:.3f}") + margin,
        "rel.": _number(100 * row["relative_accuracy"], "{:.1f}%"),
        "tokens": _number(tokens, tokens_form) + _number(100 * share, " ({:.0f}%)", ""),
        "FLOPs": _number(row["flops_ratio"], "{:.2f}"),
        "prefill": _number(row["prefill_ratio"], "{:.2f}"),
        "total": _number(row["total_ratio"], "{:.2f}"),
        "evidence": _evidence(row["evidence_recall"], row["evidence_recall_random"]),
    }


def _evidence(recall: float, by_random: float) -> str:
    """The recall, with that of the random control in brackets."""
    text = _number(recall, "{:.2f}")
    if text != MISSING and not pd.isna(by_random):
        text += f" ({by_random:.2f})".replace("(0.", "(.")
    return text


def _against_random(row: dict[str, Any]) -> Text:
    if pd.isna(row["difference_to_random"]):
        return Text(MISSING if row["method"] != BASELINE else "", style="dim")
    gap = f"{row['difference_to_random']:+.3f}"
    if row["better_than_random"] == "no":
        return Text(f"{gap} {NO_BETTER}", style="bold red")
    return Text(f"{gap}  ")


def _number(value: float, form: str, missing: str = MISSING) -> str:
    return missing if pd.isna(value) else form.format(value)


# ---- what stands around the table ----------------------------------------------------------------


def _title(study: Path, board: pd.DataFrame) -> str:
    models = [one_line(model, NAME) for model in board["model"].unique()]
    tasks = []
    for task in board["task"].unique():
        tasks.append("all tasks" if task == ALL else one_line(task, NAME))
    parts = [one_line(study.name, NAME), ", ".join(models), ", ".join(filter(None, tasks))]
    count = board["n"].max()
    if not pd.isna(count):
        parts.append(f"{count:.0f} samples")
    return " · ".join(filter(None, parts))


def _caption(content: Content, headings: Sequence[str]) -> str:
    """What the numbers mean, what is not shown, and why rows have none."""
    meanings = ["accuracy ± half its 95 % interval"]
    if "tokens" in headings:
        meanings.append(TOKENS[content.kind])
    if {"FLOPs", "prefill", "total"} & set(headings):
        meanings.append("FLOPs and times over unpruned")
    lines = ["; ".join(meanings)]
    if "evidence" in headings:
        lines.append(
            "evidence: share of its tokens alive, mean over LLM layers "
            "(by random at the same budget)"
        )
    if content.some_no_better and "vs random" in headings:
        lines.append(f"{NO_BETTER} not better than random at 95 %")
    hidden = [heading for heading in HEADINGS if heading not in headings]
    if hidden:
        lines.append(f"without {', '.join(hidden)}: leaderboard.csv has all columns")
    return "\n".join([*lines, *_grouped(content.notes)])


def _grouped(notes: Sequence[Note]) -> list[str]:
    """A line for notes that say the same of one method, with their budgets: "fastv at 25%, 10%
    infeasible: ...".
    """
    groups: dict[tuple[str, ...], list[Note]] = {}
    for note in notes:
        key: tuple[str, ...] = (note.method, note.status)
        if note.status not in ONCE:
            key = (*key, note.reason)
        groups.setdefault(key, []).append(note)
    lines = []
    for group in groups.values():
        first = group[0]
        budgets = ", ".join(dict.fromkeys(note.budget for note in group if note.budget))
        where = f" at {budgets}" if budgets else ""
        lines.append(f"{first.method}{where} {first.status}: {first.reason}")
    return lines
