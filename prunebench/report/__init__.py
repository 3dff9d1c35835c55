"""Report: tables, leaderboard and figures, folded from a study's cells by what stands in files
alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from prunebench.border import files
from prunebench.border.text import one_line
from prunebench.report import (
    by_type,
    layers,
    leaderboard,
    pairs,
    ranks,
    retention,
    staircase,
    tables,
)
from prunebench.report.comparison import Warn
from prunebench.report.screen import terminal
from prunebench.study import cells
from prunebench.study.cells import ReportError, StoredCell
from prunebench.study.record import BASELINE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Report", "ReportError", "build", "terminal"]


@dataclass(frozen=True)
class Report:
    """What was written for a study, and what a reader should know about it; `terminal(study)`
    prints the leaderboard. `records` are the cells behind it.
    """

    study: Path
    metrics: Path
    leaderboard: Path
    figures: tuple[Path, ...]
    warnings: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    """What figures and tables of a large study do not show."""
    records: tuple[StoredCell, ...] = field(default=(), repr=False)
    """The cells behind it."""


def build(study: Path) -> Report:
    """Write metrics.csv, leaderboard.csv and figures/*.png from the cells that are there, all of
    them or some; by_type.csv where samples say of which kind they are, pairs.csv where methods
    share a budget, ranks.csv where they share tasks as well, retention.csv where one of them keeps
    more of one sample than of another, layers.csv where cells say what entered their layers.

    A damaged cell becomes a warning. Raises ReportError where there is no finished cell, or the
    folder is not writable.
    """
    study = Path(study)
    records, warnings = cells.read(study)
    _tidy(study)
    metrics = tables.write_rows(study / "metrics.csv", tables.COLUMNS, tables.metrics(records))
    board = tables.write_csv(study / "leaderboard.csv", leaderboard.fold(records, warnings.append))
    left_out: list[str] = []
    _written(pairs.fold(records, warnings.append, left_out.append), study / "pairs.csv")
    ranking = ranks.fold(records)
    _written(ranks.texts(ranking), study / "ranks.csv")
    types = _typed(records, study / "by_type.csv", warnings.append)
    dynamic = retention.fold(records, warnings.append)
    _written(retention.texts(dynamic), study / "retention.csv")
    alive = layers.fold(records, warnings.append)
    _written(layers.texts(alive), study / "layers.csv")
    others = {
        "ranks": partial(ranks.figure, ranking),
        "retention": partial(retention.figure, dynamic),
        "staircase": partial(staircase.figure, alive),
    }
    figure_paths = _drawn(board, types, others, study / "figures", left_out.append)
    if not figure_paths:
        warnings.append(
            f"{one_line(study.name, 80)} has no figures: "
            "no method has both accuracy and tokens, FLOPs or time yet"
        )
    distinct = tuple(dict.fromkeys(map(one_line, warnings)))
    return Report(
        study, metrics, board, tuple(figure_paths), distinct, tuple(left_out), tuple(records)
    )


def _typed(records: Sequence[StoredCell], path: Path, warn: Warn) -> pd.DataFrame:
    """What stands in by_type.csv, which is written where there is anything."""
    rows = by_type.fold(records, warn)
    if len(rows):
        tables.write_rows(path, by_type.COLUMNS, rows.itertuples(index=False, name=None))
    else:
        path.unlink(missing_ok=True)
    return rows


def _written(table: pd.DataFrame, path: Path) -> None:
    """Write a table that has rows; of one that has none no older one stays."""
    if len(table):
        tables.write_csv(path, table)
    else:
        path.unlink(missing_ok=True)


def _drawn(
    board: Path,
    types: pd.DataFrame,
    others: Mapping[str, Callable[[], Figure]],
    folder: Path,
    note: Warn,
) -> list[Path]:
    """The figures that the leaderboard, the kinds of questions and the other tables have the
    numbers for; `note` hears which of them leave panels out.
    """
    rows = leaderboard.load(board)
    compares = bool((rows["method"] != BASELINE).any())
    if not compares and not os.path.lexists(folder):
        return []  # nothing to draw, and nothing that was drawn before
    from prunebench.report import figures  # here, for what draws takes a second to import

    def left_out(name: str, text: str) -> None:
        note(f"{folder.name}/{name} shows {text}")

    return figures.draw(rows, types, folder, others=others, note=left_out)


def _tidy(study: Path) -> None:
    """Remove what a report that was killed left behind."""
    for folder in (study, study / "figures"):
        if folder != study and folder.is_symlink():
            continue
        with suppress(OSError):  # what cannot be tidied cannot be written, and says so there
            files.tidy(folder)
