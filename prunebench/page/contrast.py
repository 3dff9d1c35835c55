"""Contrast: one study beside another one, as `prunebench compare` finds it, regressions marked.

"Here" is the study whose page it is, "there" the other one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from prunebench.border.text import clean, one_line
from prunebench.report import agreement
from prunebench.report.agreement import Ranking
from prunebench.report.changes import UNCOMPARED, Change
from prunebench.report.matches import Key
from prunebench.study import cells
from prunebench.study.cells import StoredCell

NUMBERS = ("tokens_mean", "flops_total", "evidence_recall", "latency_total_ratio")
"""What is compared beside the score, without a test."""

Warn = Callable[[str], None]
Row = dict[str, Any]


def of_studies(records: Sequence[StoredCell], other: Path, warn: Warn) -> dict[str, Any]:
    """A row for what both studies ran, what only one of them has, and how far they rank methods
    alike; raises ReportError where the other is no study.
    """
    others, warnings = cells.read(other)
    for warning in warnings:
        warn(f"{one_line(other.name, 60)}: {warning}")
    both = agreement.of_cells(others, records, warn)
    return {
        "name": one_line(other.resolve().name, 80),
        "rows": [_row(change) for change in both.changes],
        "only_here": [_named(key) for key in both.only_second],
        "only_there": [_named(key) for key in both.only_first],
        "rankings": [_ranking(ranking) for ranking in both.rankings],
        "beside": clean(both.beside),
    }


def _row(change: Change) -> Row:
    """Scores with their difference, and what else both measured."""
    there, here = change.groups
    row: Row = {
        # as this study calls it, for its filters
        **_named(change.key._replace(task=here.task)),
        "score": change.second,
        "score_there": change.first,
        "verdict": _verdict(change),
        "questions": change.questions,
    }
    gap = change.difference
    if gap is not None and change.mark != UNCOMPARED:
        row |= {"difference": gap.value, "low": gap.low, "high": gap.high, "n": gap.n}
        row["p"] = change.p
    for name in NUMBERS:
        row[name], row[f"{name}_there"] = here.value(name), there.value(name)
    settings = _settings(change)
    if settings[0] != settings[1]:
        row["settings_there"], row["settings"] = settings
    return {name: _plain(value) for name, value in row.items()}


def _verdict(change: Change) -> str:
    """The mark, with what became of it where one of the two has no score."""
    if change.difference is not None or change.mark == UNCOMPARED:
        return change.mark
    there, here = change.statuses
    return f"{change.mark}: {f'{there} there' if change.second is not None else f'{here} here'}"


def _settings(change: Change) -> tuple[str, str]:
    """What each of the two ran under the label."""
    lines = []
    for group in change.groups:
        cell = (*group.cells, *group.cost)[0]
        lines.append(clean(f"{cell.pruner or cell.method} {cell.settings_line}"))
    return lines[0], lines[1]


def _ranking(ranking: Ranking) -> Row:
    """How far the studies rank methods alike at one place."""
    place = Key(ranking.model, ranking.task, ranking.budget_kind, ranking.budget, "")
    tau = ranking.tau
    numbers = {"tau": tau.value, "low": tau.low, "high": tau.high}
    plain = {name: _plain(value) for name, value in numbers.items()}
    about = {name: value for name, value in _named(place).items() if name != "method"}
    return {**about, "methods": ranking.methods, **plain}


def _named(key: Key) -> Row:
    return {name: clean(value) for name, value in key._asdict().items()}


def _plain(value: Any) -> Any:
    """A number that JSON holds; None for NaN."""
    if isinstance(value, float) and value != value:
        return None
    return float(value) if isinstance(value, float) else value
