"""Questions: what the unpruned model and every method answered, of a bounded number of questions of
each model and task.

Those come first on which the methods disagree with the unpruned model most, kind of question by
kind in turn, so that a few show much.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby, zip_longest
from typing import Any

import pandas as pd

from prunebench.border.text import clean, one_line
from prunebench.study import tables
from prunebench.study.cells import ReportError, StoredCell
from prunebench.study.facts import Damaged
from prunebench.study.record import BASELINE, RIGHT

MOST_QUESTIONS = 60
"""Of a model and task."""

FEWEST_QUESTIONS = 10
"""Of a model and task, where there are many cells."""

MOST_ANSWERS = 40_000
"""In a page; where there are many cells, fewer questions are shown of each model and task, and then
fewer models and tasks.
"""

MOST_CHARACTERS = 600
"""Of an answer, and of a question."""

COLUMNS = (
    "sample_id",
    "prediction",
    "reference",
    "score",
    "status",
    "error",
    "question_type",
    "complexity",
    "available",
    "stages",
    "evidence_recall",
)

Warn = Callable[[str], None]
Group = dict[str, Any]
Row = dict[str, Any]

Place = tuple[str, str]
"""A model and a task."""


def groups(records: Sequence[StoredCell], warn: Warn, note: Warn) -> list[Group]:
    """The questions of every model and task that have any, each with the cells that answered it;
    `note` is told where they are too many for all.
    """
    grouped = groupby(_cells(records), key=lambda cell: (cell.model, cell.task))
    members = {place: list(cells) for place, cells in grouped}
    places, count = _bounded(members)
    if len(places) < len(members):
        note(
            f"the page has answers of the first {len(places)} of {len(members)} models and tasks; "
            "samples.parquet of every cell has all"
        )
    answered: list[Group] = []
    for model, task in places:
        group = _group(model, task, members[model, task], count, warn)
        if group["questions"]:
            answered.append(group)
    return answered


def _bounded(members: Mapping[Place, Sequence[StoredCell]]) -> tuple[list[Place], int]:
    """The models and tasks whose answers fit in a page, and how many questions of each; at least
    one of them, whatever it has.
    """
    total = sum(map(len, members.values()))
    count = MOST_ANSWERS // max(total, 1)
    if count >= FEWEST_QUESTIONS:
        return list(members), min(MOST_QUESTIONS, count)
    places: list[Place] = []
    number = 0
    for place, cells in members.items():
        number += len(cells)
        if places and number * FEWEST_QUESTIONS > MOST_ANSWERS:
            break
        places.append(place)
    return places, FEWEST_QUESTIONS


def _cells(records: Sequence[StoredCell]) -> list[StoredCell]:
    """The quality cells that came to their end, of several seeds the first, the unpruned model
    first.
    """
    first: dict[tuple[str, ...], StoredCell] = {}
    for cell in sorted(records, key=lambda cell: cell.seed):
        if cell.kind == "quality" and cell.ok:
            key = (cell.model, cell.task, cell.method, cell.budget_kind, cell.budget)
            first.setdefault(key, cell)
    return sorted(first.values(), key=_order)


def _order(cell: StoredCell) -> tuple[Any, ...]:
    others = cell.method != BASELINE
    return cell.model, cell.task, others, cell.method, cell.budget_kind, cell.budget


def _group(model: str, task: str, cells: Sequence[StoredCell], count: int, warn: Warn) -> Group:
    """The questions of one model and task."""
    readable, answers = [], []
    for cell in cells:
        try:
            answers.append(_answers(cell))
        except ReportError as error:
            warn(str(error))
            continue
        readable.append(cell)
    samples = _ranked(readable, answers)
    questions = []
    for sample in samples[:count]:
        questions.append(_question(sample, [rows.get(sample) for rows in answers]))
    return {
        "model": clean(model),
        "task": clean(task),
        "of": len(samples),
        "higher": all(cell.more_is_better for cell in readable),
        "cells": [_about(cell) for cell in readable],
        "questions": questions,
    }


def _about(cell: StoredCell) -> Row:
    return {
        "id": cell.id,
        "method": clean(cell.method),
        "control": cell.is_control,
        "kind": cell.budget_kind,
        "budget": cell.budget,
    }


def _answers(cell: StoredCell) -> dict[str, Row]:
    """By sample, what a cell has of it; raises ReportError."""
    try:
        table = tables.read_columns(cell.folder / "samples.parquet", COLUMNS)
    except Damaged as error:
        raise ReportError(f"cell {one_line(cell.id, 100)}: {error}") from None
    return {str(row["sample_id"]): row for row in table.to_pylist()}


def _ranked(cells: Sequence[StoredCell], answers: Sequence[dict[str, Row]]) -> list[str]:
    """Every sample, those first on which most cells flip, kind by kind in turn."""
    if not cells:
        return []
    baseline = answers[0] if cells[0].method == BASELINE else {}
    flips: dict[str, int] = {}
    kinds: dict[str, str] = {}
    for rows in answers:
        for sample, row in rows.items():
            kinds.setdefault(sample, str(row.get("question_type") or ""))
            other = baseline.get(sample)
            flips[sample] = flips.get(sample, 0) + (other is not None and _flipped(row, other))
    frame = pd.DataFrame({"kind": kinds, "flips": flips})
    # a stable sort: of equals the first in the data comes first
    frame = frame.sort_values("flips", ascending=False, kind="stable")
    lists = [list(members.index) for _, members in frame.groupby("kind", sort=True)]
    ranked: list[str] = []
    for turn in zip_longest(*lists):
        ranked += [sample for sample in turn if sample is not None]
    return ranked


def _flipped(row: Row, other: Row) -> bool:
    """Whether one of two answers is right and the other wrong."""
    scores = row["score"], other["score"]
    if None in scores:
        return False
    return bool((scores[0] >= RIGHT) != (scores[1] >= RIGHT))


def _question(sample: str, rows: Sequence[Row | None]) -> Row:
    """One question, and what each cell has of it."""
    first = next(row for row in rows if row is not None)
    return {
        "sample": sample,
        "type": _short(first.get("question_type")),
        "complexity": first.get("complexity"),
        "reference": _short(first.get("reference")),
        "available": first.get("available"),
        "answers": [_answer(row) for row in rows],
    }


def _answer(row: Row | None) -> Row | None:
    """What a page shows of an answer; what is missing has no key."""
    if row is None:
        return None
    answer = {
        "text": _short(row.get("prediction")),
        "score": row.get("score"),
        "error": _short(row.get("error")),
        "stages": row.get("stages"),
        "recall": row.get("evidence_recall"),
    }
    return {name: value for name, value in answer.items() if value is not None}


def _short(text: str | None) -> str | None:
    """A text that somebody wrote, cleaned and cut."""
    if text is None:
        return None
    if len(text) > MOST_CHARACTERS:
        text = f"{text[:MOST_CHARACTERS]}… ({len(text):,} characters)"
    return clean(text)
