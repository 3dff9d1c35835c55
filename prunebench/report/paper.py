"""Paper: figures and tables of a study as a paper wants them: some methods, in an order, under
their printed names, as vectors whose text stays text, each with a caption that says what it stands
on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

import prunebench
from prunebench.border.text import one_line
from prunebench.report import by_type, layers, paper_tables, retention, staircase, tables
from prunebench.report.board import budget_kind, overall
from prunebench.study.cells import ReportError, StoredCell, joined
from prunebench.study.record import BASELINE

SIDES = (0.5, 20.0)
"""Inches of the shortest and the longest side of a panel."""


@dataclass(frozen=True)
class Wish:
    """What is wanted: `methods` in their order, all where none is named, then in `order` (name or
    accuracy); `rename` what they are called; `size` inches of a panel.
    """

    methods: tuple[str, ...] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    order: str = "name"
    format: str = "pdf"
    size: tuple[float, float] | None = None


def renamed(words: Sequence[str]) -> dict[str, str]:
    """What "name:Name" texts say; raises ReportError."""
    names = {}
    for word in words:
        name, colon, other = word.partition(":")
        if not colon or not name.strip() or not other.strip():
            raise ReportError(
                f"rename has {one_line(repr(word), 60)}; write name:Name, such as fastv:FastV"
            )
        names[name.strip()] = other.strip()
    return names


def sized(word: str) -> tuple[float, float]:
    """What "3.3x2.6" says; raises ReportError."""
    sides = word.lower().split("x")
    try:
        width, height = map(float, sides)
    except ValueError:
        width = height = 0.0
    if not all(SIDES[0] <= side <= SIDES[1] for side in (width, height)):
        raise ReportError(
            f"size is {one_line(repr(word), 60)}; write inches, from {SIDES[0]:g} to "
            f"{SIDES[1]:g}, such as 3.3x2.6"
        )
    return width, height


def write(
    board: pd.DataFrame, records: Sequence[StoredCell], wish: Wish, folder: Path
) -> list[Path]:
    """Write the figures, table.tex, table.md and captions.md; raises ReportError where a method is
    not in the study or the folder is not writable.
    """
    from prunebench.report import figures  # here, for what draws takes a second to import

    rows = selected(board, wish)
    order = methods_of(rows, wish)
    plan = figures.Plan(wish.size, wish.rename, tuple(order), wish.format)
    # without the grid of kinds, which is too wide for a column
    methods = {*rows["method"]}
    cells = [cell for cell in records if cell.method in methods]
    dynamic = retention.fold(cells, _unheard)
    alive = layers.fold(cells, _unheard)
    own_size = wish.size or retention.SIZE
    panel_size = wish.size or staircase.SIZE
    others = {
        "retention": partial(retention.figure, dynamic, wish.rename, own_size),
        "staircase": partial(staircase.figure, alive, wish.rename, order, panel_size),
    }
    kinds = pd.DataFrame(columns=by_type.COLUMNS)
    left_out: dict[str, str] = {}
    paths = figures.draw(rows, kinds, folder, plan, others, left_out.__setitem__)
    origin = about(rows, records)
    captions = {}
    for path in paths:
        omission = f" Shown: {left_out[path.name]}." if path.name in left_out else ""
        captions[path.name] = f"{figures.CAPTIONS[path.stem]}{omission} {origin}"
    layout = paper_tables.Layout(order, wish.rename, budget_kind(rows))
    for name, make in (("table.tex", paper_tables.latex), ("table.md", paper_tables.markdown)):
        captions[name] = f"{paper_tables.caption(rows)} {origin}"
        text = make(overall(rows), layout, captions[name])
        paths.append(tables.write(folder / name, text.encode()))
    lines = [f"**{name}** {caption}\n" for name, caption in captions.items()]
    paths.append(tables.write(folder / "captions.md", "\n".join(lines).encode()))
    return paths


def _unheard(_: str) -> None:
    """What is wrong with a cell was said when the study was folded."""


def selected(board: pd.DataFrame, wish: Wish) -> pd.DataFrame:
    """The rows of the methods that are wanted, the unpruned model among them."""
    names = list(board["method"].unique())
    for name in (*wish.methods, *wish.rename):
        if name not in names:
            listed = one_line(", ".join(names), 160)
            raise ReportError(f"method {one_line(name, 60)} is not in the study; it has {listed}")
    if not wish.methods:
        return board
    return board[board["method"].isin([*wish.methods, BASELINE])]


def methods_of(rows: pd.DataFrame, wish: Wish) -> list[str]:
    """The methods in their order, the unpruned model first."""
    names = list(wish.methods)
    if not names:
        accuracies = overall(rows).groupby("method")["accuracy"].mean()
        names = sorted(rows["method"].unique())
        if wish.order == "accuracy":
            # a method without any stands last
            names.sort(key=lambda name: -accuracies.fillna(-1.0).get(name, -1.0))
    return [BASELINE, *(name for name in names if name != BASELINE)]


def about(rows: pd.DataFrame, records: Sequence[StoredCell]) -> str:
    """On what the numbers stand: models, tasks, questions, seeds, code and day."""
    methods = {*rows["method"]}
    cells = [cell for cell in records if cell.method in methods]
    totals = rows["n_asked"].dropna() if "n_asked" in rows else pd.Series(dtype=float)
    counts = totals if len(totals) else rows["n"].dropna()
    seeds = sorted({cell.seed for cell in cells})
    days = sorted(filter(None, (_day(cell) for cell in cells)))
    parts = [
        f"{joined(rows['model'])} on {joined(task for task in rows['task'] if task != 'all')}",
        f"n = {int(counts.max())} questions" if len(counts) else "",
        f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''} ({', '.join(map(str, seeds))})",
        "95 % intervals",
        f"prunebench {prunebench.__version__}",
        f"code {joined(cell.commit[:12] for cell in cells)}",
        f"run {days[0]} to {days[-1]}" if days and days[0] != days[-1] else "",
        f"run {days[0]}" if days and days[0] == days[-1] else "",
    ]
    return one_line("; ".join(filter(None, parts)), 600) + "."


def _day(cell: StoredCell) -> str:
    """The day on which a cell was run; empty where it does not say."""
    date: Any = cell.provenance.get("date")
    return date[:10] if isinstance(date, str) else ""
