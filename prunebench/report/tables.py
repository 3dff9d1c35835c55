"""Tables: metrics.csv, one observation a line, folded from the cells; and how every file of a
report is written.

Numbers have ten significant digits and rows stand in the order of cell ids, so folding again gives
the same bytes. A text that a spreadsheet would take for a formula stands behind an apostrophe, and
characters that a terminal would act upon stand as their escapes. A cell whose status is not ok has
a row "status" without a value; its reason stands in leaderboard.csv and cell.json.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from functools import lru_cache
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd

from prunebench.border import files
from prunebench.border.text import clean, one_line
from prunebench.study.cells import ReportError, StoredCell
from prunebench.study.record import Metric

QUOTE = "'"
FORMULA = (QUOTE, "=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""How a text begins that a spreadsheet calculates instead of showing it, full-width signs included.
"""


PART = 2**20
"""Characters of a table that are written at a time."""


def metrics(cells: Sequence[StoredCell]) -> Iterator[list[Any]]:
    """The rows of the tidy table, one a number of every cell, in the order of cell ids."""
    for cell in sorted(cells, key=lambda cell: cell.id):
        about = _about(cell)
        origin = [cell.status, cell.hardware, cell.dtype, cell.commit]
        for metric in cell.metrics if cell.ok else (*cell.metrics, Metric("status")):
            yield [*about, *(getattr(metric, name) for name in NUMBERS), *origin]


def texts(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    """Rows as a frame of texts with exactly these columns; what a row lacks is empty."""
    lines = []
    for row in rows:
        lines.append([text(row.get(name)) for name in columns])
    return pd.DataFrame(lines, columns=list(columns), dtype=str)


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Path:
    """Write a table of any length: no more than some of its rows are text at a time."""
    return write_parts(path, _lines(columns, rows))


def _lines(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[bytes]:
    buffer = StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow(map(text, row))
        if buffer.tell() > PART:
            yield buffer.getvalue().encode()
            buffer.seek(0)
            buffer.truncate()
    yield buffer.getvalue().encode()


def text(value: Any) -> str:
    """A value as it stands in a CSV: ten significant digits, true and false, empty for what is
    missing.
    """
    if value is None or value != value:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.10g}"
    return guarded(value) if isinstance(value, str) else str(value)


@lru_cache(maxsize=2**16)  # names stand in many rows
def guarded(text: str) -> str:
    """A text that stays one in a spreadsheet; `unguarded` gives it back."""
    cleaned = clean(text)
    return QUOTE + cleaned if cleaned.startswith(FORMULA) else cleaned


def unguarded(text: str) -> str:
    """What `guarded` was given, but for characters that it escaped."""
    return text[1:] if text.startswith(QUOTE) else text


def write_csv(path: Path, frame: pd.DataFrame) -> Path:
    """Write a frame of texts."""
    return write(path, frame.to_csv(index=False, lineterminator="\n").encode())


def write(path: Path, content: bytes) -> Path:
    """Write a file whole or not at all, and never through a link; raises ReportError where the
    folder does not let us.
    """
    return write_parts(path, (content,))


def write_parts(path: Path, parts: Iterable[bytes]) -> Path:
    """The same of parts, one behind the other."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return files.write_parts(path, parts)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        detail = getattr(error, "strerror", None) or one_line(str(error), 100)
        raise ReportError(f"cannot write {one_line(str(path), 120)}: {detail}") from error


def _about(cell: StoredCell) -> list[Any]:
    return [cell.id, *cell.line, cell.seed]


NUMBERS = tuple(fact.name for fact in fields(Metric))
"""What is told of an observation."""

COLUMNS = (
    "cell",
    "model",
    "method",
    "settings",
    "budget_kind",
    "budget",
    "task",
    "seed",
    *NUMBERS,
    "status",
    "hardware",
    "dtype",
    "commit",
)
"""Of metrics.csv."""
