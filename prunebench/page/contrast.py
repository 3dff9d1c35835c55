"""Contrast: one study beside another, cell by cell on the samples that both answered, regressions
marked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from prunebench.border.text import clean, one_line
from prunebench.report.comparison import Group, average
from prunebench.study import cells, statistics
from prunebench.study.cells import StoredCell

SCORE = "score"

NUMBERS = ("tokens_mean", "flops_total", "evidence_recall", "latency_total_ratio")
"""What is compared beside the score, without a test."""

Key = tuple[str, str, str, str, str]
Warn = Callable[[str], None]
Row = dict[str, Any]


def of_studies(records: Sequence[StoredCell], other: Path, warn: Warn) -> dict[str, Any]:
    """A row for what both studies ran, and what only one of them has; raises ReportError where the
    other is no study.
    """
    others, warnings = cells.read(other)
    for warning in warnings:
        warn(f"{one_line(other.name, 60)}: {warning}")
    here, there = _by_key(records), _by_key(others)
    rows = list(_rows(here, there, warn))
    return {
        "name": one_line(other.resolve().name, 80),
        "rows": rows,
        "only_here": [_named(key) for key in here if key not in there],
        "only_there": [_named(key) for key in there if key not in here],
    }


def _by_key(records: Sequence[StoredCell]) -> dict[Key, list[StoredCell]]:
    """The cells of all seeds of what a row is made of."""
    members: dict[Key, list[StoredCell]] = {}
    for cell in records:
        key = (cell.model, cell.task, cell.method, cell.budget_kind, cell.budget)
        members.setdefault(key, []).append(cell)
    return members


def _rows(
    here: dict[Key, list[StoredCell]], there: dict[Key, list[StoredCell]], warn: Warn
) -> Iterator[Row]:
    for key, own in here.items():
        if key in there:
            yield {**_named(key), **_compared(key[1], own, there[key], warn)}


def _compared(task: str, own: Sequence[StoredCell], other: Sequence[StoredCell], warn: Warn) -> Row:
    """Scores with their paired difference, and what else both measured."""
    group = _group(task, own, other)
    row: Row = {
        "score": average(group.cells, SCORE),
        "score_there": average(group.baseline, SCORE),
        "verdict": "not compared",
    }
    if row["score"] is None or row["score_there"] is None:
        # what failed in one of the two is the first thing to know
        row["verdict"] = _lost(group.cells, group.baseline)
    pair = group.against_baseline(warn)
    if pair is not None:
        gap = statistics.difference([pair])
        # of what less is better, a pair holds the scores as they are
        gain = gap.value if all(cell.more_is_better for cell in own) else -gap.value
        row |= {"difference": gap.value, "low": gap.low, "high": gap.high, "n": gap.n, "p": gap.p}
        row["verdict"] = _verdict(gain, gap.sure)
    every = (*group.cells, *group.cost), (*group.baseline, *_cost(other))
    for name in NUMBERS:
        row[name], row[f"{name}_there"] = (average(part, name) for part in every)
    return {name: _plain(value) for name, value in row.items()}


def _group(task: str, own: Sequence[StoredCell], other: Sequence[StoredCell]) -> Group:
    """The cells of one study with those of the other in the place of the unpruned model's."""
    return Group(task, _quality(own), _cost(own), _quality(other), ())


def _quality(members: Sequence[StoredCell]) -> tuple[StoredCell, ...]:
    return tuple(cell for cell in members if cell.kind == "quality")


def _cost(members: Sequence[StoredCell]) -> tuple[StoredCell, ...]:
    return tuple(cell for cell in members if cell.kind == "cost")


def _lost(own: Sequence[StoredCell], other: Sequence[StoredCell]) -> str:
    """What is to be said where one of the two has no score."""
    if not any(cell.ok for cell in own) and any(cell.ok for cell in other):
        return f"worse: {_statuses(own)} here"
    if any(cell.ok for cell in own) and not any(cell.ok for cell in other):
        return f"better: {_statuses(other)} there"
    return "not compared"


def _statuses(members: Sequence[StoredCell]) -> str:
    return " ".join(sorted({cell.status for cell in members})) or "none"


def _verdict(gain: float, sure: bool) -> str:
    if not sure or gain == 0:
        return "no difference shown"
    return "better" if gain > 0 else "worse"


def _named(key: Key) -> Row:
    names = ("model", "task", "method", "budget_kind", "budget")
    return {name: clean(value) for name, value in zip(names, key, strict=True)}


def _plain(value: Any) -> Any:
    """A number that JSON holds; None for NaN."""
    if isinstance(value, float) and value != value:
        return None
    return float(value) if isinstance(value, float) else value
