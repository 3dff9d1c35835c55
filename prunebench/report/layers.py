"""Layers: layers.csv, how many visual tokens enter every layer of a model, method by method.

A row is a run of layers that as many tokens enter: a method that prunes at the input has one, one
that prunes before layer 2 has two. Where a method lets tokens go inside the vision encoder, what is
left behind each of its seams has a row, too. Numbers are means over samples, seeds and, in row
"all", tasks, each of which counts alike. Cells that do not say what entered their layers have no
rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import numpy as np
import pandas as pd

from prunebench.report import tables
from prunebench.report.board import records
from prunebench.report.comparison import Warn
from prunebench.report.headings import ALL, LINE, Heading, names
from prunebench.study.cells import StoredCell
from prunebench.study.samples import Array

Part = Literal["vision", "llm"]

ENCODER: Part = "vision"
DECODER: Part = "llm"

KEY = [*names(LINE), "task"]

HEADINGS = (
    *LINE,
    Heading("task", "as written in the grid, or all", text=True),
    Heading("control", "true where it is there only to be compared with", text=True),
    Heading("part", "llm, or vision for the vision encoder", text=True),
    Heading("first_layer", "of the layers that as many tokens enter, from 0"),
    Heading("last_layer", "the last of them; empty at the end of the vision encoder"),
    Heading("tokens", "visual tokens that enter each of these layers, mean over samples"),
    Heading("share", "of the tokens before anything is pruned"),
)
"""Of layers.csv."""

COLUMNS = names(HEADINGS)

Key = tuple[str, str, str, str, str]
Row = dict[str, Any]


@dataclass(frozen=True)
class _Counts:
    """Tokens of one method, or their share: [layers] entering those of the LLM, and by block what
    is left in front of it in the vision encoder.
    """

    entering: Array
    encoder: dict[int, float]


def fold(cells: Sequence[StoredCell], warn: Warn) -> pd.DataFrame:
    """The table; empty where no cell says what entered its layers."""
    return table(rows(cells, warn))


def table(every: Sequence[Row]) -> pd.DataFrame:
    """Rows as the table."""
    return pd.DataFrame(list(every), columns=COLUMNS)


def rows(cells: Sequence[StoredCell], warn: Warn) -> list[Row]:
    """The rows of the table, model by model."""
    by_line: dict[Key, dict[str, list[StoredCell]]] = {}
    tasks: dict[str, set[str]] = {}
    for cell in cells:
        if cell.kind == "quality":
            tasks.setdefault(cell.model, set()).add(cell.task)
        if cell.kind == "quality" and cell.ok and cell.entering is not None:
            model, method, settings, kind, budget, task = cell.line
            line = (model, method, settings, kind, budget)
            by_line.setdefault(line, {}).setdefault(task, []).append(cell)
    every: list[Row] = []
    for line, by_task in sorted(by_line.items()):
        depths = {len(cell.entering or ()) for cell in chain.from_iterable(by_task.values())}
        if len(depths) > 1:
            model, method, *_ = line
            listed = " and ".join(map(str, sorted(depths)))
            warn(f"{method} on {model} is not in layers.csv: its cells are of {listed} layers")
            continue
        every += _rows(line, by_task, len(tasks[line[0]]))
    return every


def texts(table: pd.DataFrame) -> pd.DataFrame:
    """The table as it is written."""
    return tables.texts(records(table), COLUMNS)


def _rows(line: Key, by_task: dict[str, list[StoredCell]], tasks: int) -> Iterator[Row]:
    """The rows of a method at a budget: those of all tasks together where it ran on each of
    several, then those of every task.
    """
    of_tasks = {task: (_tokens(cells), _shares(cells)) for task, cells in by_task.items()}
    if len(of_tasks) == tasks > 1:
        tokens = _mean([own for own, _ in of_tasks.values()])
        shares = _mean([own for _, own in of_tasks.values()])
        of_tasks = {ALL: (tokens, shares), **of_tasks}
    control = any(cell.is_control for cell in chain.from_iterable(by_task.values()))
    for task, (tokens, shares) in of_tasks.items():
        about: Row = dict(zip(KEY, (*line, task), strict=True))
        about["control"] = control
        yield from ({**about, **run} for run in _runs(tokens, shares))


def _tokens(cells: Sequence[StoredCell]) -> _Counts:
    """The tokens of one method on one task, mean over seeds."""
    return _mean([_counts(cell) for cell in cells])


def _shares(cells: Sequence[StoredCell]) -> _Counts:
    """The same over what there was; NaN where a cell does not say how many that were."""
    every = []
    for cell in cells:
        number = cell.number("tokens_available")
        available = (number.value if number else None) or np.nan
        counts = _counts(cell)
        shares = {block: count / available for block, count in counts.encoder.items()}
        every.append(_Counts(counts.entering / available, shares))
    return _mean(every)


def _counts(cell: StoredCell) -> _Counts:
    encoder = {int(seam.partition(":")[2]): count for seam, count in (cell.encoder or {}).items()}
    return _Counts(np.asarray(cell.entering, dtype=float), encoder)


def _mean(every: Sequence[_Counts]) -> _Counts:
    """The mean of each number, over those that have it: seams of a method are the same on every
    task but where an image is too small for one.
    """
    entering = np.mean(np.stack([one.entering for one in every]), axis=0)
    blocks = sorted(set().union(*(one.encoder for one in every)))
    encoder = {}
    for block in blocks:
        counts = [one.encoder[block] for one in every if block in one.encoder]
        encoder[block] = float(np.mean(counts))
    return _Counts(np.asarray(entering), encoder)


def _runs(tokens: _Counts, shares: _Counts) -> Iterator[Row]:
    """What is left behind every seam of the encoder, then the runs of the LLM's layers."""
    blocks = [*tokens.encoder]
    for place, block in enumerate(blocks):
        last = blocks[place + 1] - 1 if place + 1 < len(blocks) else None
        yield _run(ENCODER, block, last, tokens.encoder[block], shares.encoder[block])
    changes = np.flatnonzero(np.diff(tokens.entering)) + 1
    starts = [0, *changes.tolist()]
    ends = [*starts[1:], len(tokens.entering)]
    for start, end in zip(starts, ends, strict=True):
        yield _run(
            DECODER, start, end - 1, float(tokens.entering[start]), float(shares.entering[start])
        )


def _run(part: Part, first: int, last: int | None, tokens: float, share: float) -> Row:
    row: Row = {"part": part, "first_layer": first, "last_layer": last}
    return {**row, "tokens": tokens, "share": share}
