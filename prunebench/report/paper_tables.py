"""Paper tables: a leaderboard as LaTeX and as Markdown, with intervals and marks of what is shown
to be worse, better, or neither.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pandas as pd

from prunebench.border.text import one_line, percent
from prunebench.report.board import budget_label, records
from prunebench.report.clock import is_spoiled, on_busy_machine
from prunebench.study.machine import BUSY
from prunebench.study.record import BASELINE

CAPTION = (
    "Accuracy with its 95 % interval, and paired differences to the unpruned model and to random "
    "tokens at the same budget. A star marks a difference that both interval and test show not to "
    "be zero at 95 %, {}; no star means that none is shown, not that there is none. Bold: the "
    "highest accuracy of a budget."
)
UNCORRECTED = "uncorrected for the number of comparisons"
BUSY_TIMES = f"Times with ({BUSY}) were measured on a busy machine and tell nothing."
CORRECTED = "after Holm's correction for the number of methods"

HEADS = ("method", "budget", "accuracy", "to unpruned", "to random", "tokens", "FLOPs", "time")

SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}
"""Signs that LaTeX would act upon."""

MOST = 2_000
"""Characters of a text."""

TIME = "total_ratio"
"""The column of time."""

Row = dict[str, Any]
Escape = Callable[[str], str]


@dataclass(frozen=True)
class Layout:
    """Methods in their order, what they are called, and what kind of tokens is shown."""

    order: Sequence[str]
    rename: Mapping[str, str]
    tokens: str = "mean"


@dataclass(frozen=True)
class Markup:
    """How a language writes what a table is made of."""

    escape: Escape
    bold: str
    star: str
    dash: str
    minus: str


def caption(board: pd.DataFrame) -> str:
    """What a table shows, and how its stars were given."""
    text = CAPTION.format(CORRECTED if "difference_to_none_holm" in board else UNCORRECTED)
    if on_busy_machine(board, TIME).any():
        text = f"{text} {BUSY_TIMES}"
    return text


def in_latex(text: str) -> str:
    """A text that LaTeX prints as it stands."""
    return "".join(SPECIAL.get(sign, sign) for sign in one_line(text, MOST))


def in_markdown(text: str) -> str:
    """A text that Markdown prints as it stands."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&$])", r"\\\1", one_line(text, MOST))


LATEX = Markup(in_latex, r"\textbf{{{}}}", r"$^{*}$", "--", "$-$")
MARKDOWN = Markup(in_markdown, "**{}**", r"\*", "\u2013", "\u2212")


def latex(board: pd.DataFrame, layout: Layout, caption: str) -> str:
    """A table environment for booktabs."""
    columns = "ll" + "r" * (len(HEADS) - 2)
    lines = [r"% needs \usepackage{booktabs}", r"\begin{table}", r"\centering", r"\small"]
    lines += [rf"\caption{{{in_latex(caption)}}}", rf"\begin{{tabular}}{{{columns}}}"]
    lines += [r"\toprule", " & ".join(HEADS) + r" \\"]
    for model, rows in _by_model(board, layout):
        lines.append(r"\midrule")
        lines.append(rf"\multicolumn{{{len(HEADS)}}}{{l}}{{\textit{{{in_latex(model)}}}}} \\")
        lines += [" & ".join(_cells(row, rows, layout, LATEX)) + r" \\" for row in rows]
    lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}", ""]
    return "\n".join(lines)


def markdown(board: pd.DataFrame, layout: Layout, caption: str) -> str:
    """A table a model, the caption above."""
    lines = [in_markdown(caption), ""]
    for model, rows in _by_model(board, layout):
        lines += [f"**{in_markdown(model)}**", "", f"| {' | '.join(HEADS)} |"]
        lines.append("|" + "---|" * 2 + "---:|" * (len(HEADS) - 2))
        lines += [f"| {' | '.join(_cells(row, rows, layout, MARKDOWN))} |" for row in rows]
        lines.append("")
    return "\n".join(lines)


def _by_model(board: pd.DataFrame, layout: Layout) -> list[tuple[str, list[Row]]]:
    """The rows of each model: budgets as the leaderboard has them, methods in their order."""
    places = {name: place for place, name in enumerate(layout.order)}
    tables = []
    for model, rows in groupby(records(board), key=lambda row: str(row["model"])):
        members = list(rows)
        budgets = list(dict.fromkeys(_budget(row) for row in members))
        members.sort(key=lambda row: (budgets.index(_budget(row)), places[row["method"]]))
        tables.append((model, members))
    return tables


def _budget(row: Row) -> tuple[bool, str, str]:
    return row["method"] != BASELINE, row["budget_kind"], row["budget"]


def _cells(row: Row, rows: Sequence[Row], layout: Layout, markup: Markup) -> list[str]:
    """One line of the table."""
    name = layout.rename.get(row["method"], row["method"])
    budget = "" if row["method"] == BASELINE else budget_label(row)
    return [
        markup.escape(name),
        markup.escape(budget),
        _accuracy(row, rows, markup),
        _difference(row, "difference_to_none", markup),
        _difference(row, "difference_to_random", markup),
        _share(row.get(f"tokens_{layout.tokens}_share"), markup),
        _ratio(row, "flops_ratio", markup),
        _time(row, markup),
    ]


def _accuracy(row: Row, rows: Sequence[Row], markup: Markup) -> str:
    """The accuracy with its interval; the reason's kind where there is none."""
    value = row["accuracy"]
    if pd.isna(value):
        return markup.escape(str(row["status"]))
    rivals = [other["accuracy"] for other in rows if _budget(other) == _budget(row)]
    text = f"{value:.3f}"
    if len(rivals) > 1 and value >= max(rival for rival in rivals if not pd.isna(rival)):
        text = markup.bold.format(text)
    return text + _ends(row, "accuracy", markup)


def _difference(row: Row, name: str, markup: Markup) -> str:
    """A paired difference with its interval, starred where it is not zero."""
    value, low, high = row.get(name), row.get(f"{name}_low"), row.get(f"{name}_high")
    if value is None or pd.isna(value):
        return markup.dash
    # corrected where the leaderboard has that
    p = row.get(f"{name}_holm", row.get(f"{name}_p"))
    # as the leaderboard's marks: by the interval as well, where there is one
    holds_zero = low is not None and low <= 0 <= high
    sure = p is not None and p < 0.05 and not holds_zero
    return _signed(value, markup) + (markup.star if sure else "") + _ends(row, name, markup)


def _ends(row: Row, name: str, markup: Markup) -> str:
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    if low is None or pd.isna(low) or pd.isna(high):
        return ""
    ends = [f"{end:.3f}".replace("-", markup.minus) for end in (low, high)]
    return f" [{ends[0]}, {ends[1]}]"


def _signed(value: float, markup: Markup) -> str:
    return f"{value:+.3f}".replace("-", markup.minus)


def _share(value: float | None, markup: Markup) -> str:
    return markup.dash if value is None or pd.isna(value) else markup.escape(percent(value))


def _ratio(row: Row, name: str, markup: Markup) -> str:
    value = row.get(name)
    return markup.dash if value is None or pd.isna(value) else f"{value:.2f}"


def _time(row: Row, markup: Markup) -> str:
    """The time over the unpruned model's, with a word where the machine was too busy for one."""
    text = _ratio(row, TIME, markup)
    return f"{text} ({BUSY})" if text != markup.dash and is_spoiled(row, TIME) else text
