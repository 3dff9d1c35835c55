"""Tables: metrics.csv, one observation a line, folded from the cells; and how every file of a
report is written.

Numbers have ten significant digits and rows stand in the order of cell ids, so folding again gives
the same bytes. A text that a spreadsheet would take for a formula stands behind an apostrophe, and
characters that a terminal would act upon stand as their escapes. A cell whose status is not ok has
a row "status" without a value; its reason stands in leaderboard.csv and cell.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields
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


def metrics(cells: Sequence[StoredCell]) -> pd.DataFrame:
    """The tidy table, as text: a row a number of every cell, in the order of cell ids."""
    rows: list[dict[str, Any]] = []
    for cell in sorted(cells, key=lambda cell: cell.id):
        observations = cell.metrics if cell.ok else (*cell.metrics, Metric("status"))
        rows += [_row(cell, metric) for metric in observations]
    return texts(rows, COLUMNS)


def texts(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    """Rows as a frame of texts with exactly these columns; what a row lacks is empty."""
    lines = []
    for row in rows:
        lines.append([text(row.get(name)) for name in columns])
    return pd.DataFrame(lines, columns=list(columns), dtype=str)


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
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return files.write(path, content)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        detail = getattr(error, "strerror", None) or one_line(str(error), 100)
        raise ReportError(f"cannot write {one_line(str(path), 120)}: {detail}") from error


def _row(cell: StoredCell, metric: Metric) -> dict[str, Any]:
    about = {
        "cell": cell.id,
        "model": cell.model,
        "method": cell.method,
        "settings": cell.settings_line,
        "budget_kind": cell.budget_kind,
        "budget": cell.budget,
        "task": cell.task,
        "seed": cell.seed,
    }
    origin = {
        "status": cell.status,
        "hardware": cell.hardware,
        "dtype": cell.dtype,
        "commit": cell.commit,
    }
    return about | asdict(metric) | origin


COLUMNS = (
    "cell",
    "model",
    "method",
    "settings",
    "budget_kind",
    "budget",
    "task",
    "seed",
    *(fact.name for fact in fields(Metric)),
    "status",
    "hardware",
    "dtype",
    "commit",
)
"""Of metrics.csv."""
