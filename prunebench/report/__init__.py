"""Report: tables, leaderboard and figures, folded from a study's cells by what stands in files
alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd

from prunebench.border import files
from prunebench.border.text import one_line
from prunebench.report import (
    by_type,
    drawing,
    layers,
    leaderboard,
    pairs,
    parts,
    ranks,
    retention,
    staircase,
    tables,
)
from prunebench.report.comparison import Warn
from prunebench.report.drawing import Helper
from prunebench.report.parts import Part
from prunebench.report.screen import terminal
from prunebench.study import cells
from prunebench.study.cells import ReportError, StoredCell
from prunebench.study.record import BASELINE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

T = TypeVar("T")
Row = dict[str, Any]

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


def build(study: Path, whole: bool = True) -> Report:
    """Write metrics.csv, leaderboard.csv and figures/*.png from the cells that are there, all of
    them or some; by_type.csv where samples say of which kind they are, pairs.csv where methods
    share a budget, ranks.csv where they share tasks as well, retention.csv where one of them keeps
    more of one sample than of another, layers.csv where cells say what entered their layers.

    `whole` says that the report's records must hold their numbers and samples, for which a large
    study is folded by one process. A damaged cell becomes a warning. Raises ReportError where there
    is no finished cell, or the folder is not writable.
    """
    study = Path(study)
    with drawing.helper(len(cells.folders(study))) as helper:
        try:
            return _written(study, parts.of_study(study, whole), helper)
        except parts.Entangled:
            return _written(study, iter([parts.of_all(study)]), helper)


def _written(study: Path, every: Iterator[Part], helper: Helper | None) -> Report:
    """Write the tables and figures of these parts; raises Entangled as well."""
    # what cannot be read at all is said before anything is written
    first = next(every)
    _tidy(study)
    folded: list[Part] = []

    def metrics() -> Iterator[bytes]:
        yield tables.head(tables.COLUMNS)
        for part in chain([first], every):
            yield from part.metrics
            folded.append(replace(part, metrics=()))

    metrics_path = tables.write_parts(study / "metrics.csv", metrics())
    left_out: list[str] = []
    board = leaderboard.write(study / "leaderboard.csv", _each(part.board for part in folded))
    pair_lines = pairs.lines(_each(part.pairs for part in folded), left_out.append)
    if pair_lines is None:
        raise parts.Entangled
    _write(study / "pairs.csv", pairs.COLUMNS, pair_lines)
    ranking = ranks.table(_by_model(part.ranks for part in folded))
    _write(study / "ranks.csv", ranks.COLUMNS, tables.rows(ranks.texts(ranking)))
    types = _joined([part.types for part in folded])
    _write_types(study / "by_type.csv", [part.type_lines for part in folded])
    dynamic = retention.table(_by_model(part.retention for part in folded))
    _write(study / "retention.csv", retention.COLUMNS, tables.rows(retention.texts(dynamic)))
    alive = layers.table(_by_model(part.layers for part in folded))
    _write(study / "layers.csv", layers.COLUMNS, tables.rows(layers.texts(alive)))
    others = {
        "ranks": partial(ranks.figure, ranking),
        "retention": partial(retention.figure, dynamic),
        "staircase": partial(staircase.figure, alive),
    }
    figure_paths = _drawn(board, types, others, study / "figures", left_out.append, helper)
    warnings: list[str] = []
    for name in parts.WARNINGS:
        warnings += _each(part.warnings[name] for part in folded)
    if not figure_paths:
        warnings.append(
            f"{one_line(study.name, 80)} has no figures: "
            "no method has both accuracy and tokens, FLOPs or time yet"
        )
    return Report(
        study,
        metrics_path,
        board,
        tuple(figure_paths),
        tuple(dict.fromkeys(map(one_line, warnings))),
        tuple(left_out),
        tuple(_each(part.records for part in folded)),
    )


def _each(many: Iterable[Iterable[T]]) -> list[T]:
    """The members of all of them."""
    return list(chain.from_iterable(many))


def _by_model(many: Iterable[Iterable[Row]]) -> list[Row]:
    """The rows of all parts in the order of models; those of one are in order."""
    return sorted(_each(many), key=lambda row: str(row["model"]))


def _joined(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The rows of all frames that have any."""
    with_rows = [frame for frame in frames if len(frame)]
    return (
        pd.concat(with_rows, ignore_index=True) if len(with_rows) > 1 else [*with_rows, *frames][0]
    )


def _write_types(path: Path, lines: Sequence[bytes]) -> None:
    """Write by_type.csv, which is long."""
    if any(lines):
        tables.write_parts(path, [tables.head(by_type.COLUMNS), *lines])
    else:
        path.unlink(missing_ok=True)


def _write(path: Path, columns: Sequence[str], lines: Sequence[str]) -> None:
    """Write a table that has rows; of one that has none no older one stays."""
    if lines:
        tables.write_lines(path, columns, lines)
    else:
        path.unlink(missing_ok=True)


def _drawn(
    board: Path,
    types: pd.DataFrame,
    others: Mapping[str, Callable[[], Figure]],
    folder: Path,
    note: Warn,
    helper: Helper | None,
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

    return figures.draw(rows, types, folder, others=others, note=left_out, helper=helper)


def _tidy(study: Path) -> None:
    """Remove what a report that was killed left behind."""
    for folder in (study, study / "figures"):
        if folder != study and folder.is_symlink():
            continue
        with suppress(OSError):  # what cannot be tidied cannot be written, and says so there
            files.tidy(folder)
