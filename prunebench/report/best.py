"""Best: the cheapest method and budget that loses no more than a margin, as far as the answers of a
study show it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from prunebench.border.text import one_line
from prunebench.report import leaderboard
from prunebench.report.board import budget_label, overall, records
from prunebench.report.clock import is_spoiled
from prunebench.report.comparison import Group, Warn, scale_of
from prunebench.study import cells
from prunebench.study.cells import ReportError, StoredCell
from prunebench.study.contrasts import GroupedPair, Pair
from prunebench.study.noninferiority import Loss, Verdict, loss
from prunebench.study.pairwise import holm
from prunebench.study.record import BASELINE, BLIND

SCALES = {"0..1": 1.0, "0..100": 100.0}
"""Scales of scores on which a loss is a share of full marks."""

LOWER = ", lower is better"

NAMED = 6
"""Methods that a reason names."""

NONE, HOLM = "none", "holm"
"""How p-values can be corrected."""


@dataclass(frozen=True)
class Query:
    """What is looked for: the least `metric`, a column of the leaderboard, at which no more than
    `loss` of full marks is lost; `level` is that of the one-sided test, `correct` how its p-values
    are corrected for as many comparisons as there are.
    """

    loss: float = 0.01
    metric: str = "total_ratio"
    level: float = 0.95
    correct: str = HOLM
    model: str | None = None
    task: str | None = None

    @property
    def alpha(self) -> float:
        """How often a loss beyond the margin may be taken for less."""
        return 1 - self.level


@dataclass(frozen=True)
class Candidate:
    """A method at a budget: what it costs, what it loses, and its p-value as corrected for so many
    `tests`.
    """

    method: str
    budget: str
    control: bool
    cost: float
    low: float | None
    high: float | None
    loss: Loss
    p: float
    alpha: float
    tests: int = 1

    @property
    def verdict(self) -> Verdict:
        """What the study's answers show."""
        return self.loss.verdict(self.p, self.alpha)

    @property
    def questions(self) -> int | None:
        """How many answers would say enough; None where no number would."""
        return self.loss.questions(self.alpha / self.tests)


@dataclass(frozen=True)
class Answer:
    """What there is to say of one model: the candidates, the cheapest first, and why others are
    none.
    """

    model: str
    tasks: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    left_out: tuple[str, ...]

    @property
    def best(self) -> Candidate | None:
        """The cheapest one that keeps within the margin, controls aside; None where none does."""
        for candidate in self.candidates:
            if candidate.verdict is Verdict.KEEPS and not candidate.control:
                return candidate
        return None

    @property
    def undecided(self) -> tuple[Candidate, ...]:
        """Those cheaper than the best that lose less than the margin, on too few answers to say."""
        best, cheaper = self.best, []
        for candidate in self.candidates:
            if best is not None and candidate.cost >= best.cost:
                break
            loses_less = candidate.loss.value < candidate.loss.margin
            is_open = candidate.verdict is Verdict.UNDECIDED and loses_less
            if is_open and not candidate.control:
                cheaper.append(candidate)
        return tuple(cheaper)


def best(study: Path, query: Query, warn: Warn) -> list[Answer]:
    """An answer a model; raises ReportError for a metric or model that the study does not have."""
    stored, warnings = cells.read(study)
    for warning in warnings:
        warn(warning)
    board = leaderboard.fold(stored, warn)
    if query.metric not in board or query.metric in leaderboard.TEXTS:
        numbers = [name for name in board.columns if name.endswith(("_ratio", "_share"))]
        raise ReportError(
            f"metric {one_line(query.metric, 60)!r} is no number of the leaderboard; "
            f"there are {', '.join(numbers)}"
        )
    models = sorted({cell.model for cell in stored})
    if query.model is not None and query.model not in models:
        raise ReportError(
            f"the study has no model {one_line(query.model, 60)!r}; it has {', '.join(models)}"
        )
    answers = []
    for model in models if query.model is None else [query.model]:
        of_model = [cell for cell in stored if cell.model == model]
        answers.append(_answer(model, of_model, board[board["model"] == model], query, warn))
    return answers


def _answer(
    model: str, stored: Sequence[StoredCell], board: pd.DataFrame, query: Query, warn: Warn
) -> Answer:
    """What one model's cells show."""
    quality = [cell for cell in stored if cell.kind == "quality"]
    tasks = sorted({cell.task for cell in quality})
    if query.task is not None:
        if query.task not in tasks:
            raise ReportError(
                f"the study has no task {one_line(query.task, 60)!r} of {one_line(model, 60)}; "
                f"it has {', '.join(tasks)}"
            )
        tasks = [query.task]
    rows = board[board["task"] == query.task] if query.task is not None else overall(board)
    most = _unpruned(rows, query.metric)
    candidates: list[Candidate] = []
    left_out: dict[str, list[str]] = {}
    for row in records(rows):
        if row["method"] in (BASELINE, BLIND):
            continue
        try:
            candidates.append(_candidate(row, tasks, quality, query, most, warn))
        except ReportError as error:
            left_out.setdefault(str(error), []).append(f"{row['method']} {budget_label(row)}")
    reasons = [f"{reason}: {_some(names)}" for reason, names in left_out.items()]
    return Answer(model, tuple(tasks), _corrected(candidates, query), tuple(reasons))


def _some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    listed = ", ".join(names[:NAMED])
    return listed if len(names) <= NAMED else f"{listed} and {len(names) - NAMED} more"


def _unpruned(rows: pd.DataFrame, metric: str) -> float | None:
    """What the unpruned model has of a metric; 1 of what is a multiple of its own."""
    if metric.endswith("_ratio"):
        return 1.0
    values = [_number(row[metric]) for row in records(rows) if row["method"] == BASELINE]
    return values[0] if values else None


def _candidate(
    row: dict[str, Any],
    tasks: Sequence[str],
    quality: Sequence[StoredCell],
    query: Query,
    unpruned: float | None,
    warn: Warn,
) -> Candidate:
    """One row of the leaderboard; raises ReportError where something is missing, or nothing is
    saved.
    """
    cost = _number(row[query.metric])
    if cost is None:
        raise ReportError(f"no {query.metric} was measured")
    if is_spoiled(row, query.metric):
        raise ReportError(f"{query.metric} was measured on a busy machine")
    if unpruned is not None and cost >= unpruned:
        raise ReportError(f"no less {query.metric} than the unpruned model's {unpruned:.4g}")
    groups = [_group(row, task, quality) for task in tasks]
    scales = {group.scale for group in groups}
    if len(scales) > 1:
        raise ReportError(f"its tasks have scores of different kinds ({'; '.join(sorted(scales))})")
    scale = scales.pop()
    most = SCALES.get(scale.removesuffix(LOWER))
    if most is None:
        raise ReportError(f"a loss of scores that are {scale or 'none'} is no share of full marks")
    pairs: list[Pair | GroupedPair] = []
    for group in groups:
        pair = group.against_baseline(warn)
        if pair is None:
            raise ReportError(f"of {group.task} it has no answers beside the unpruned model's")
        pairs.append(pair)
    lost = loss(pairs, query.loss * most, not scale.endswith(LOWER), most, query.alpha)
    return Candidate(
        str(row["method"]),
        budget_label(row),
        row["control"] == "true",
        cost,
        _number(row.get(f"{query.metric}_low", "")),
        _number(row.get(f"{query.metric}_high", "")),
        lost,
        lost.p,
        query.alpha,
    )


def _group(row: dict[str, Any], task: str, quality: Sequence[StoredCell]) -> Group:
    """The answers behind a row on one task, and those of the unpruned model."""
    own, baseline, of_task = [], [], []
    for cell in quality:
        if cell.task != task:
            continue
        of_task.append(cell)
        key = cell.method, cell.budget_kind, cell.budget
        if key == (row["method"], row["budget_kind"], row["budget"]):
            own.append(cell)
        if cell.method == BASELINE:
            baseline.append(cell)
    scale = scale_of(task, of_task)
    return Group(task, tuple(own), (), tuple(baseline), (), scale=scale)


def _corrected(candidates: Sequence[Candidate], query: Query) -> tuple[Candidate, ...]:
    """The candidates by cost, their p-values corrected for one another; controls are no choice, and
    none of these.
    """
    ordered = sorted(candidates, key=lambda candidate: candidate.cost)
    if query.correct == NONE:
        return tuple(ordered)
    tests = [candidate for candidate in ordered if not candidate.control]
    values = iter(holm([candidate.loss.p for candidate in tests]))
    corrected = []
    for candidate in ordered:
        if not candidate.control:
            candidate = replace(candidate, p=next(values), tests=len(tests))
        corrected.append(candidate)
    return tuple(corrected)


def _number(text: Any) -> float | None:
    """A number of the folded leaderboard; None where there is none."""
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if value == value else None
