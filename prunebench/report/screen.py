"""Screen: the leaderboard as a table of the terminal, as wide as that is.

A number is never cut off. What does not fit leaves the table in a stated order: columns that no row
has a number for; the columns of LESSER, one by one; then names are wrapped; then the columns of
LAST. The line below the table says what is not shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from prunebench.border.text import one_line, percent
from prunebench.report import leaderboard
from prunebench.report.board import NAME, budget_kind, budget_label, overall, records
from prunebench.report.clock import is_spoiled
from prunebench.report.headings import PORT
from prunebench.report.leaderboard import ALL
from prunebench.study.machine import BUSY
from prunebench.study.pairwise import BETTER, UNSHOWN, WORSE
from prunebench.study.record import BASELINE, BLIND

MISSING = "-"
SIGNS: Mapping[str, str] = {BETTER: "▲", WORSE: "▼", UNSHOWN: "≈"}
STYLES: Mapping[str, str] = {WORSE: "bold red", UNSHOWN: "yellow"}
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

Row = dict[str, Any]
"""A row of the leaderboard."""

Headings = tuple[str, ...]

Cells = dict[str, Text]
"""One line of the table, by heading."""


@dataclass(frozen=True)
class Note:
    """What else there is to say of a row: why it has no numbers, or what it is a port of; `status`
    is the kind of it.
    """

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

    headings: Headings
    name_width: int


@dataclass(frozen=True)
class Content:
    """All that a table can show, before it is fitted to a width."""

    title: str
    kind: str
    blocks: list[Block]
    notes: list[Note]
    signs: list[str]
    blind: list[str]

    @property
    def name_widths(self) -> tuple[int, int]:
        """Columns of the longest name of a method, and of a model."""
        methods = [line["method"].cell_len for line in self.lines]
        models = [cell_len(block.model) for block in self.blocks]
        return max(methods, default=0), max(models, default=0)

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
    board = leaderboard.load(study / "leaderboard.csv")
    content = _content(study, overall(board), _blind(board))
    console = Console(width=UNBOUNDED)
    for layout in _layouts(content):
        table = _table(content, layout)
        # where not even the last layout fits, it is the one that is shown
        if console.measure(table).maximum <= width:
            break
    return table


# ---- fitting -------------------------------------------------------------------------------------


def _layouts(content: Content) -> Iterator[Layout]:
    """Ways to show the table, the fullest first."""
    methods, models = content.name_widths
    yield Layout(HEADINGS, max(methods, models))
    headings = _with_numbers(content)
    yield Layout(headings, max(methods, models))
    yield Layout(headings, methods)  # models' names stand on lines of their own
    for lesser in LESSER:
        headings = _without(headings, lesser)
        yield Layout(headings, methods)
    narrowest = min(methods, NARROWEST_NAME)
    yield Layout(headings, narrowest)
    for last in LAST:
        headings = _without(headings, last)
        yield Layout(headings, narrowest)


def _without(headings: Headings, heading: str) -> Headings:
    return tuple(other for other in headings if other != heading)


def _with_numbers(content: Content) -> Headings:
    """The headings under which some line has more than a dash."""
    headings = []
    for heading in HEADINGS:
        texts = {line[heading].plain.strip() for line in content.lines}
        if heading not in NUMBERS or texts - {MISSING, ""}:
            headings.append(heading)
    return tuple(headings)


def _table(content: Content, layout: Layout) -> Table:
    table = Table(
        title=Text(content.title, style="table.title"),
        caption=Text(_caption(content, layout.headings), style="table.caption"),
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for heading in layout.headings:
        if heading == "method":
            width = max(layout.name_width, len(heading))
            table.add_column(heading, width=width, overflow="fold")
        elif heading == "tokens" and content.kind == "kv":
            table.add_column("KV tokens", justify="right", no_wrap=True)
        else:
            table.add_column(heading, justify="right", no_wrap=True)
    for block in content.blocks:
        if block.model:
            table.add_section()
            table.add_row(Text(block.model, style="bold"))
        for line in block.lines:
            table.add_row(*(line[heading] for heading in layout.headings))
        table.add_section()
    return table


# ---- content -------------------------------------------------------------------------------------


def _content(study: Path, board: pd.DataFrame, blind: list[str]) -> Content:
    kind = budget_kind(board)
    several = board["model"].nunique() > 1
    blocks: list[Block] = []
    notes: list[Note] = []
    # sort=False: rows are in the leaderboard's order already
    for model, of_model in board.groupby("model", sort=False):
        heading = one_line(str(model), NAME) if several else ""
        for _, group in of_model.groupby(["budget", "budget_kind"], sort=False):
            block = Block(heading, [])
            for row in records(group):
                block.lines.append(_line(row, kind))
                notes += _notes(row, several)
            blocks.append(block)
            heading = ""
    return Content(
        title=_title(study, board),
        kind=kind,
        blocks=blocks,
        notes=notes,
        signs=[word for word in SIGNS if (board["against_random"] == word).any()],
        blind=blind,
    )


def _blind(board: pd.DataFrame) -> list[str]:
    """A line a model and task that has its blind value, which the rows over all tasks do not
    show: "m on t: 0.634 without the image, 0.695 with it unpruned".
    """
    lines = []
    for row in records(board[board["method"] == BLIND]):
        if pd.isna(row["accuracy"]):
            continue
        same = (board["model"] == row["model"]) & (board["task"] == row["task"])
        unpruned = board.loc[same & (board["method"] == BASELINE), "accuracy"]
        beside = f", {unpruned.iloc[0]:.3f} with it unpruned" if unpruned.notna().any() else ""
        where = f"{one_line(row['model'], NAME)} on {one_line(row['task'], NAME)}"
        lines.append(f"blind: {where}: {row['accuracy']:.3f} without the image{beside}")
    return lines


def _notes(row: Row, several: bool) -> list[Note]:
    """What a row has to say, if anything."""
    texts = {row["status"]: row["reason"], "port": row.get(PORT.name, "")}
    return [_note(row, several, kind, text) for kind, text in texts.items() if text]


def _note(row: Row, several: bool, kind: str, text: str) -> Note:
    method = row["method"]
    budget = "" if method == BASELINE else budget_label(row)
    if several:
        method = f"{row['model']}: {method}"
    return Note(
        method=one_line(method, 2 * NAME),
        status=one_line(kind, NAME),
        budget=budget,
        reason=one_line(text, REASON),
    )


def _line(row: Row, kind: str) -> Cells:
    """The line of a row: its numbers, or its status where it has none."""
    style = _style(row)
    line = {
        "method": Text(one_line(row["method"], NAME), style=style),
        "budget": Text(budget_label(row), style=style),
    }
    if pd.isna(row["accuracy"]) and row["status"] != "ok":
        for heading in NUMBERS:
            line[heading] = Text(MISSING, style=style)
        line["accuracy"] = Text(one_line(row["status"], NAME), style="red")
    else:
        for heading, text in _numbers(row, kind).items():
            line[heading] = Text(text, style=style)
    line["vs random"] = _against_random(row)
    return line


def _style(row: Row) -> str:
    if row["method"] == BASELINE:
        return "bold"
    return "dim" if row["control"] == "true" else ""


def _numbers(row: Row, kind: str) -> dict[str, str]:
    """What stands under the headings of numbers, but for the last."""
    return {
        "accuracy": _accuracy(row),
        "rel.": _share(row["relative_accuracy"], ".1f"),
        "tokens": _tokens(row[f"tokens_{kind}"], row[f"tokens_{kind}_share"]),
        "FLOPs": _number(row["flops_ratio"], "{:.2f}"),
        "prefill": _number(row["prefill_ratio"], "{:.2f}"),
        "total": _total(row),
        "evidence": _evidence(row["evidence_recall"], row["evidence_recall_random"]),
    }


def _total(row: Row) -> str:
    """The time over the unpruned model's, with a word where the machine was too busy for one."""
    text = _number(row["total_ratio"], "{:.2f}")
    return f"{text} {BUSY}" if text and is_spoiled(row, "total_ratio") else text


def _accuracy(row: Row) -> str:
    """The accuracy with half its interval: "0.915 ±.03"."""
    text = _number(row["accuracy"], "{:.3f}")
    half = (row["accuracy_high"] - row["accuracy_low"]) / 2
    if pd.isna(half):
        return text
    return text + f" ±{half:.2f}".replace("±0.", "±.")


def _tokens(tokens: float, share: float) -> str:
    """The count with its share: "59.6 (75 %)"."""
    form = "{:.0f}" if tokens >= 100 else "{:.3g}"
    text = _number(tokens, form)
    return text if pd.isna(share) else f"{text} ({percent(share)})"


def _share(share: float, form: str) -> str:
    """A share in percent; a dash where there is none."""
    return MISSING if pd.isna(share) else percent(share, form)


def _evidence(recall: float, by_random: float) -> str:
    """The recall, with that of the random control in brackets: "0.85 (.75)"."""
    text = _number(recall, "{:.2f}")
    if text == MISSING or pd.isna(by_random):
        return text
    return text + f" ({by_random:.2f})".replace("(0.", "(.")


def _against_random(row: Row) -> Text:
    """The difference with what it shows."""
    difference = row["difference_to_random"]
    if pd.isna(difference):
        own = "" if row["method"] == BASELINE else MISSING
        return Text(own, style="dim")
    # as wide without a sign, so that the numbers stand below each other
    sign = SIGNS.get(row["against_random"], " ")
    return Text(f"{difference:+.3f} {sign}", style=STYLES.get(row["against_random"], ""))


def _number(value: float, form: str, missing: str = MISSING) -> str:
    return missing if pd.isna(value) else form.format(value)


# ---- what stands around the table ----------------------------------------------------------------


def _title(study: Path, board: pd.DataFrame) -> str:
    """The study, its models, tasks and samples."""
    models = [one_line(model, NAME) for model in board["model"].unique()]
    tasks = []
    for task in board["task"].unique():
        tasks.append("all tasks" if task == ALL else one_line(task, NAME))
    parts = [
        one_line(study.name, NAME),
        ", ".join(models),
        ", ".join(filter(None, tasks)),
    ]
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
    if content.signs and "vs random" in headings:
        marks = ", ".join(f"{SIGNS[word]} {word}" for word in content.signs)
        lines.append(f"{marks}: at 95 %, by Holm over the methods of a budget")
    hidden = [heading for heading in HEADINGS if heading not in headings]
    if hidden:
        lines.append(f"without {', '.join(hidden)}: leaderboard.csv has all columns")
    return "\n".join([*lines, *content.blind, *_grouped(content.notes)])


def _grouped(notes: Sequence[Note]) -> list[str]:
    """A line for notes that say the same of one method, with their budgets: "fastv at 25 %, 10 %
    infeasible: ...".
    """
    groups: dict[tuple[str, ...], list[Note]] = {}
    for note in notes:
        groups.setdefault(_sameness(note), []).append(note)
    return [_note_line(group) for group in groups.values()]


def _sameness(note: Note) -> tuple[str, ...]:
    """What notes have in common that say the same."""
    if note.status in ONCE:
        return note.method, note.status
    return note.method, note.status, note.reason


def _note_line(group: Sequence[Note]) -> str:
    first = group[0]
    budgets = dict.fromkeys(note.budget for note in group if note.budget)
    where = f" at {', '.join(budgets)}" if budgets else ""
    return f"{first.method}{where} {first.status}: {first.reason}"
