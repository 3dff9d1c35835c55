"""Tables: metrics.csv, one observation a line, folded from the cells; and how every file of a report is written.

Numbers have ten significant digits and rows stand in the order of cell ids, so folding again gives the same bytes.
A cell whose status is not ok has a row "status" without a value; its reason stands in leaderboard.csv and cell.json.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from prunebench.report.cells import Cell, Metric, ReportError

COLUMNS = (
    "cell", "model", "method", "settings", "budget_kind", "budget", "task", "seed", "metric", "value", "unit", "stderr",
    "ci_low", "ci_high", "n", "higher_is_better", "status", "hardware", "dtype", "commit",
)  # fmt: skip


def metrics(cells: Sequence[Cell]) -> pd.DataFrame:
    """The tidy table, as text."""
    rows = [_row(cell, metric) for cell in sorted(cells, key=lambda c: c.id) for metric in _observations(cell)]
    return texts(rows, COLUMNS)


def texts(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    """Rows as a frame of texts with exactly these columns; what a row lacks is empty."""
    return pd.DataFrame([[text(row.get(name)) for name in columns] for row in rows], columns=list(columns), dtype=str)


def text(value: Any) -> str:
    """A value as it stands in a CSV: ten significant digits, true and false, empty for what is missing."""
    if value is None or value != value:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def write_csv(path: Path, frame: pd.DataFrame) -> Path:
    """Write a frame of texts."""
    return write(path, frame.to_csv(index=False, lineterminator="\n").encode())


def write(path: Path, content: bytes) -> Path:
    """Write a file whole or not at all; raises ReportError where the folder does not let us."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content)
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise ReportError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def _observations(cell: Cell) -> tuple[Metric, ...]:
    return cell.metrics if cell.ok else (*cell.metrics, Metric("status", None))


def _row(cell: Cell, metric: Metric) -> dict[str, Any]:
    return {
        "cell": cell.id,
        "model": cell.model,
        "method": cell.method,
        "settings": cell.settings,
        "budget_kind": cell.budget_kind,
        "budget": cell.budget,
        "task": cell.task,
        "seed": cell.seed,
        "metric": metric.name,
        "value": metric.value,
        "unit": metric.unit,
        "stderr": metric.stderr,
        "ci_low": metric.low,
        "ci_high": metric.high,
        "n": metric.n,
        "higher_is_better": metric.higher_is_better,
        "status": cell.status,
        "hardware": cell.hardware,
        "dtype": cell.dtype,
        "commit": cell.commit,
    }
