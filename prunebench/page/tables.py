"""Tables of the page: every CSV of a study, column by column, each text kept once.

What a column means is read where it is declared; one that nobody declared is shown as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from prunebench.border.files import opened
from prunebench.border.text import clean, one_line
from prunebench.report import headings, layers, pairs, ranks, retention
from prunebench.report.tables import unguarded
from prunebench.study import columns

FIRST = ("leaderboard", "by_type", "metrics")
"""The tables that stand first, in this order."""

MOST_ROWS = 20_000
"""Rows of a table that a browser still sorts at once; the page says how many it leaves out."""

MOST_TABLES = 12

PIECE = 2**24
"""Bytes of a table that are looked through at a time."""

TEXTS = frozenset({*headings.TEXTS, "type", "metric", "cell", "unit"})
"""Columns that hold names, also where every name is a number."""

HIGHER = frozenset({"accuracy", "relative_accuracy", "evidence_recall", "perfect"})
"""Numbers of the leaderboard's own, or of other tables, of which more is better."""

OTHERS: Mapping[str, Sequence[headings.Heading]] = {
    "layers": layers.HEADINGS,
    "pairs": pairs.HEADINGS,
    "ranks": ranks.HEADINGS,
    "retention": retention.HEADINGS,
}
"""By table, the columns that are not the leaderboard's."""

Warn = Callable[[str], None]
Table = dict[str, Any]


def of_study(study: Path, warn: Warn) -> dict[str, Table]:
    """By name, the tables that lie in the study's folder."""
    paths = {path.stem: path for path in sorted(study.glob("*.csv"))}
    names = [name for name in FIRST if name in paths]
    names += [name for name in paths if name not in FIRST]
    tables = {}
    for name in names[:MOST_TABLES]:
        try:
            tables[clean(name)] = _table(paths[name])
        except (OSError, ValueError) as error:
            warn(
                f"{one_line(paths[name].name, 80)} is not in the page: {one_line(str(error), 120)}"
            )
    return tables


def _table(path: Path) -> Table:
    """A CSV as columns; raises OSError or ValueError where it is none."""
    with opened(path) as file:
        head = pd.read_csv(file, dtype=str, keep_default_na=False, nrows=MOST_ROWS)
    declarations = {**declared(), **_own(path.stem)}
    # a large table is not made for the sake of its length
    count = len(head) if len(head) < MOST_ROWS else _count(path)
    parts = []
    for name in head.columns:
        about = declarations.get(str(name), {})
        parts.append({"name": clean(str(name)), **about, **_column(str(name), head[name])})
    return {"columns": parts, "rows": len(head), "left_out": count - len(head)}


def _count(path: Path) -> int:
    """The rows of a CSV: its lines but for the first, without those that break off in a quoted
    text.
    """
    lines = quotes_before = 0
    last = b"\n"
    with opened(path) as file:
        while piece := file.read(PIECE):
            signs = np.frombuffer(piece, dtype=np.uint8)
            breaks = np.flatnonzero(signs == ord("\n"))
            quotes = np.flatnonzero(signs == ord('"'))
            # behind an odd number of quotes is inside of one
            open_quotes = (np.searchsorted(quotes, breaks) + quotes_before) % 2
            lines += int((open_quotes == 0).sum())
            quotes_before += len(quotes)
            last = piece[-1:]
    return lines - 1 if last == b"\n" else lines


def _column(name: str, texts: pd.Series[str]) -> Table:
    """The values of a column: numbers, None where there is none, or codes of distinct texts."""
    values = texts.tolist()
    if name not in TEXTS:
        numbers = _numbers(values)
        if numbers is not None:
            return {"kind": "number", "values": numbers}
    codes: dict[str, int] = {}
    places = []
    for value in values:
        places.append(codes.setdefault(clean(unguarded(value)), len(codes)))
    return {"kind": "text", "texts": list(codes), "values": places}


def _numbers(values: list[str]) -> list[float | None] | None:
    """The values as numbers; None where one is none, or there is not a single one."""
    numbers: list[float | None] = []
    for value in values:
        if not value:
            numbers.append(None)
            continue
        try:
            number = float(value)
        except ValueError:
            return None
        if not isfinite(number):
            return None
        numbers.append(int(number) if number.is_integer() and abs(number) < 2**53 else number)
    return numbers if any(number is not None for number in numbers) else None


def declared() -> dict[str, dict[str, str]]:
    """By column, what it says and which direction is better, where that is declared."""
    return {name: dict(about) for name, about in _declarations()}


def _own(table: str) -> dict[str, dict[str, str]]:
    """What the columns of a table say that is read beside the leaderboard."""
    declarations = {}
    for heading in OTHERS.get(table, ()):
        for name in heading.names:
            declarations[name] = _about(heading.about, None, "")
    return declarations


def _declarations() -> Iterator[tuple[str, Mapping[str, str]]]:
    for column in (*columns.SAMPLES, *columns.COST, *columns.YARDSTICKS):
        if column.metric:
            yield column.metric, _about(column.about, column.better, column.unit)
    for heading in (*headings.HEAD, *headings.TAIL, *headings.SOMETIMES):
        better = "higher" if heading.name in HIGHER else None
        for name in heading.names:
            yield name, _about(heading.about, better, "")
    for column, board in columns.on_board():
        for name in board.names:
            # what stands beside a number is a share, a ratio, or the control's
            unit = column.unit if name == board.name else ""
            yield name, _about(column.about, column.better, unit)


def _about(text: str, better: str | None, unit: str) -> dict[str, str]:
    about = {"about": text, "better": better or "", "unit": unit}
    return {name: value for name, value in about.items() if value}
