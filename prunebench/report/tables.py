"""Tables: metrics.csv, one observation a line, folded from the cells; and how every file of a
report is written.

Numbers have ten significant digits and rows stand in the order of cell ids, so folding again gives
the same bytes. A text that a spreadsheet would take for a formula stands behind an apostrophe, and
characters that a terminal would act upon stand as their escapes. A cell whose status is not ok has
a row "status" without a value; its reason stands in leaderboard.csv and cell.json.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import lru_cache
from io import StringIO
from itertools import chain
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


SPECIAL = frozenset('",\r\n')
"""What a text has that is quoted in a CSV."""

PART = 2**20
"""Characters of a table that are written at a time."""


def metrics(cells: Sequence[StoredCell]) -> Iterator[str]:
    """The lines of the tidy table, one a number of every cell, in the order of cell ids."""
    for cell in sorted(cells, key=lambda cell: cell.id):
        # the same on every line of a cell
        about = line(_about(cell))
        origin = line([cell.status, cell.hardware, cell.dtype, cell.commit])
        for metric in cell.metrics if cell.ok else (*cell.metrics, Metric("status")):
            yield f"{about},{line([getattr(metric, name) for name in NUMBERS])},{origin}"


def texts(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    """Rows as a frame of texts with exactly these columns; what a row lacks is empty."""
    lines = []
    for row in rows:
        lines.append([text(row.get(name)) for name in columns])
    return pd.DataFrame(lines, columns=list(columns), dtype=str)


def rows(frame: pd.DataFrame) -> list[str]:
    """The lines of a frame of texts."""
    return [",".join(map(_quoted_text, row)) for row in frame.itertuples(index=False, name=None)]


def write_lines(path: Path, columns: Sequence[str], lines: Iterable[str]) -> Path:
    """Write a table of any length: no more than some of its lines are kept at a time."""
    return write_parts(path, chain([head(columns)], joined(lines)))


def head(columns: Sequence[str]) -> bytes:
    """The first line of a table."""
    return f"{line(columns)}\n".encode()


def joined(lines: Iterable[str]) -> Iterator[bytes]:
    """Lines as they are written, some of them at a time."""
    pieces: list[str] = []
    size = 0
    for text in lines:
        pieces.append(text)
        size += len(text)
        if size > PART:
            pieces.append("")
            yield "\n".join(pieces).encode()
            pieces, size = [], 0
    pieces.append("")
    yield "\n".join(pieces).encode()


def line(values: Iterable[Any]) -> str:
    """Values as a line of a CSV."""
    return ",".join([FORMS.get(type(value), _other)(value) for value in values])


def _number(value: float) -> str:
    return f"{value:.10g}" if value == value else ""


def _other(value: Any) -> str:
    """A value that is no text and no plain number."""
    return _quoted_text(text(value))


@lru_cache(maxsize=2**16)
def _quoted(value: str) -> str:
    """A text as a CSV holds it."""
    return _quoted_text(guarded(value))


def _quoted_text(value: str) -> str:
    if SPECIAL.isdisjoint(value):
        return value
    buffer = StringIO()
    # beside another one, for an empty text alone is quoted
    csv.writer(buffer, lineterminator="").writerow([value, ""])
    return buffer.getvalue()[:-1]


FORMS: Mapping[type, Callable[[Any], str]] = {
    float: _number,
    str: _quoted,
    int: str,
    type(None): lambda _: "",
}
"""How nearly all values are written; `text` says the same of them and of others."""


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
    except ReportError:  # of what is written
        raise
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
