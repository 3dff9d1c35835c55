"""Parts: what a report says of some models of a study, folded from all of their cells.

No number is of two models, so a large study is folded model by model, by a process a core: what
comes home are the lines of the tables, not the samples. A small one is a single part.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd

from prunebench.report import by_type, layers, leaderboard, pairs, ranks, retention, tables
from prunebench.study import cells, readers
from prunebench.study.cells import ReportError, StoredCell

Row = dict[str, Any]

CELLS = "cells"

WARNINGS = (CELLS, "board", "pairs", "types", "retention", "layers")
"""What warnings can be of, in the order in which they are said."""

JOINT = "__"
"""What joins the parts of a cell's name, of which the first is its model."""


class Entangled(Exception):
    """That two parts have cells of one model, which then are no parts."""


@dataclass(frozen=True)
class Part:
    """What is said of some models: the lines of the tables, and by table the warnings.

    `records` are their cells; `metrics` is given once.
    """

    models: frozenset[str]
    records: Sequence[StoredCell]
    metrics: Iterable[bytes]
    board: Sequence[leaderboard.Line]
    pairs: Sequence[pairs.Contested]
    ranks: Sequence[Row]
    types: pd.DataFrame
    type_lines: bytes
    retention: Sequence[Row]
    layers: Sequence[Row]
    warnings: dict[str, list[str]] = field(repr=False)


def of_study(study: Path, whole: bool) -> Iterator[Part]:
    """The parts of a study, in the order of their cells. Raises ReportError as `cells.read` does,
    and Entangled where parts turn out to be none.

    `whole` asks for cells that still hold their numbers and samples: then there is one part.
    """
    paths = cells.folders(study)
    shares = [list(share) for _, share in groupby(paths, key=_model)]
    number = min(readers.count(paths), len(shares))
    if whole or number == 1:
        yield of_all(study)
        return
    models: set[str] = set()
    faults: list[str] = []
    try:
        for part in readers.answers(__name__, shares, number, len(paths)):
            if isinstance(part, ReportError):
                raise part
            if not models.isdisjoint(part.models):
                raise Entangled
            models |= part.models
            faults += part.warnings[CELLS]
            yield part
    except OSError as error:
        raise ReportError(f"{len(paths)} cells cannot be read: {error}") from None
    if not models:
        raise cells.without_cells(study, faults)


def of_all(study: Path) -> Part:
    """The whole study as one part, folded by this process."""
    stored, warnings = cells.read(study)
    return _folded(stored, warnings)


def serve() -> None:
    """Be a process that folds parts."""
    readers.main(_share)


def _model(folder: Path) -> str:
    """The model that a cell's name says; nothing is lost where it says none."""
    return folder.name.partition(JOINT)[0]


def _folded(stored: Sequence[StoredCell], faults: list[str], share: float = 1.0) -> Part:
    """What these cells say, that share of the study's."""
    warnings: dict[str, list[str]] = {name: [] for name in WARNINGS}
    warnings[CELLS] = faults
    types = by_type.fold(stored, warnings["types"].append)
    return Part(
        models=frozenset(cell.model for cell in stored),
        records=stored,
        metrics=tables.joined(tables.metrics(stored)),
        board=leaderboard.lines(stored, warnings["board"].append),
        pairs=pairs.contested(stored, warnings["pairs"].append, share),
        ranks=ranks.rows(stored),
        types=types,
        type_lines=b"".join(tables.joined(by_type.lines(types))),
        retention=retention.rows(stored, warnings["retention"].append),
        layers=layers.rows(stored, warnings["layers"].append),
        warnings=warnings,
    )


def _share(paths: list[Path], every: int) -> Part | ReportError:
    """The part that these cells are, of `every` cell of a study, with what may be sent home."""
    try:
        stored, faults = cells.told_apart(cells.read_each(paths))
        part = _folded(stored, faults, len(paths) / every)
    except ReportError as error:
        return error
    records = [replace(cell, of_samples=None, metrics=(), files={}) for cell in part.records]
    return replace(part, records=records, metrics=list(part.metrics))
