"""Log: a run's figures as log.csv, a line every few steps."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path

from prunebench.border import files
from prunebench.learning.folder import discard, storing

NAME = "log.csv"

Row = dict[str, float]
"""A line: step, seconds, rate, and the figures since the last one."""


class Log:
    """The lines of log.csv.

    A column comes with the first line that has it; cells of earlier lines, and figures that are no
    number, are empty. Raises RunError for what the disk says.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[Row] = []
        self.columns: list[str] = []

    def restore(self, rows: Sequence[Row]) -> None:
        """Begin with the lines of a run so far; whatever the file held is gone, and without lines
        there is none.
        """
        self.rows = [dict(row) for row in rows]
        self.columns = []
        for row in self.rows:
            self._add_columns(row)
        if self.rows:
            self.rewrite()
            return
        with storing(self.path):
            discard(self.path)

    def add(self, row: Row) -> None:
        """Add a line; the file is written anew only where the line brings a column, or the file is
        gone.
        """
        self.rows.append(row)
        if self._add_columns(row) or not self.path.is_file():
            self.rewrite()
            return
        with storing(self.path):
            # not through a link that took the place of the file meanwhile
            handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW)
            with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
                file.write(self._text([row], header=False))

    def rewrite(self) -> None:
        """Write all lines, whole or not at all."""
        with storing(self.path):
            files.write(self.path, self._text(self.rows, header=True).encode())

    def _add_columns(self, row: Row) -> bool:
        """Whether the line brought a column."""
        names = [name for name in row if name not in self.columns]
        self.columns += names
        return bool(names)

    def _text(self, rows: Sequence[Row], *, header: bool) -> str:
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, self.columns, restval="")
        if header:
            writer.writeheader()
        for row in rows:
            writer.writerow({name: _cell(value) for name, value in row.items()})
        return buffer.getvalue()


def _cell(value: float) -> str:
    """A figure as text; what is no number is empty."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.5g}" if abs(value) < float("inf") else ""
