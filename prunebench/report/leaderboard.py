"""Leaderboard: one row per model, method, budget and task, folded from the cells of all seeds.

Where a model was run on several tasks, a row with task "all" holds the mean over tasks of every
number. A number that was not measured is empty. Where a method or the unpruned model did not answer
every sample, shares and ratios are taken over the samples that both answered, and the reason says
so. Rows are sorted by model, task ("all" first), budget (largest first), accuracy.

What the columns are stands in HEAD and TAIL, and for what was measured in study/columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from prunebench.border.files import opened
from prunebench.border.text import one_line
from prunebench.report import tables
from prunebench.report.comparison import Group, Warn, average
from prunebench.study import statistics
from prunebench.study.cells import ReportError, StoredCell, joined
from prunebench.study.columns import INTERVAL, Board, Column, on_board
from prunebench.study.record import BASELINE, CONTROL
from prunebench.study.statistics import Difference, Interval, Pair

T = TypeVar("T")
Row = dict[str, Any]

ALL = "all"
PARTIAL = "partial"
DIFFERENCE = (*INTERVAL, "_p")

Key = tuple[str, str, str, str]
"""Model, method, budget kind, budget: what has a row per task."""


@dataclass(frozen=True)
class Heading:
    """A column of the leaderboard's own, or several whose names end in `ends`."""

    name: str
    about: str
    text: bool = False
    ends: tuple[str, ...] = ("",)

    @property
    def names(self) -> list[str]:
        """The columns of leaderboard.csv."""
        return [self.name + end for end in self.ends]


HEAD = (
    Heading("model", "what was run", text=True),
    Heading("method", "its label in the grid", text=True),
    Heading("settings", "its settings, as JSON", text=True),
    Heading("control", "true where it is there only to be compared with", text=True),
    Heading("budget_kind", "what the budget counts", text=True),
    Heading("budget", "as written in the grid", text=True),
    Heading("task", "as written in the grid, or all", text=True),
    Heading("seeds", "how many are pooled"),
    Heading("n", "samples behind the accuracy, of all tasks in row all"),
    Heading("n_asked", "samples that the tasks have"),
    Heading("accuracy", "the task's primary metric, mean over seeds", ends=INTERVAL),
    Heading("relative_accuracy", "accuracy over that of none, same samples", ends=INTERVAL),
    Heading("difference_to_none", "accuracy less that of none, paired", ends=DIFFERENCE),
    Heading("n_paired", "samples that both answered, behind the two comparisons with none"),
)
TAIL = (
    Heading("difference_to_random", "accuracy less that of random, paired", ends=DIFFERENCE),
    Heading("n_paired_random", "samples that both answered"),
    Heading("better_than_random", "yes or no at 95 %; empty where there is none", text=True),
    Heading("status", "ok, failed, oom, unsupported, infeasible, or partial", text=True),
    Heading("reason", "why it is not ok, or speaks for fewer samples", text=True),
    Heading("hardware", "where the numbers come from", text=True),
    Heading("dtype", "of the model's weights", text=True),
    Heading("commit", "of the code", text=True),
)


def _names() -> Iterator[str]:
    for heading in HEAD:
        yield from heading.names
    for _, board in on_board():
        yield from board.names
    for heading in TAIL:
        yield from heading.names


COLUMNS = tuple(_names())
TEXTS = tuple(heading.name for heading in (*HEAD, *TAIL) if heading.text)


def fold(cells: Sequence[StoredCell], warn: Warn) -> pd.DataFrame:
    """The leaderboard as text; `warn` hears of cells that are damaged or cannot be compared."""
    rows: list[Row] = []
    for model in sorted({cell.model for cell in cells}):
        rows += _rows([cell for cell in cells if cell.model == model], warn)
    return tables.texts(sorted(rows, key=_order), COLUMNS)


def load(path: Path) -> pd.DataFrame:
    """leaderboard.csv with numbers as floats (NaN where empty) and texts as texts; raises
    ReportError.
    """
    numbers = [name for name in COLUMNS if name not in TEXTS]
    try:
        with opened(path) as file:
            board = pd.read_csv(
                file,
                keep_default_na=False,  # a method is called "none"
                dtype=dict.fromkeys(TEXTS, str) | dict.fromkeys(numbers, float),
                na_values={name: [""] for name in numbers},
            )[list(COLUMNS)]
    except FileNotFoundError:
        raise ReportError(
            f"there is no {path}; fold the study first: prunebench report {path.parent}"
        ) from None
    except OSError as error:
        raise ReportError(
            f"{path} cannot be read: {error.strerror}; fold the study again"
        ) from None
    except (KeyError, ValueError) as error:
        raise ReportError(
            f"{path} is damaged ({one_line(str(error), 100)}); fold the study again"
        ) from None
    for name in TEXTS:
        board[name] = board[name].map(tables.unguarded)
    return board


def budget_share(budget: str, available: float | None) -> float:
    """A budget's text as a share of the available tokens, for sorting; -1 where it is a method's
    own.
    """
    try:
        amount = float(budget)
    except ValueError:
        return -1.0
    return amount / (available or 1.0) if budget.isdigit() else amount


# ---- rows ----------------------------------------------------------------------------------------


def _rows(cells: Sequence[StoredCell], warn: Warn) -> Iterable[Row]:
    """All rows of one model."""
    tasks = sorted({cell.task for cell in cells if cell.kind == "quality"})
    tasks = tasks or sorted({cell.task for cell in cells})
    by_key: dict[Key, StoredCell] = {}
    for cell in cells:
        by_key.setdefault(_key(cell), cell)
    for key, first in sorted(by_key.items(), key=lambda item: item[0]):
        facts: Row = {
            "model": first.model,
            "method": first.method,
            "settings": first.settings_line,
            "control": first.is_control,
            "budget_kind": first.budget_kind,
            "budget": first.budget,
        }
        groups = [_group(key, task, tasks, cells) for task in tasks]
        for group in groups:
            if group.cells or group.cost:
                yield facts | {"task": group.task} | _row([group], warn)
        if len(tasks) > 1:
            yield facts | {"task": ALL} | _row(groups, warn)


def _key(cell: StoredCell) -> Key:
    return cell.model, cell.method, cell.budget_kind, cell.budget


def _group(key: Key, task: str, tasks: Sequence[str], cells: Sequence[StoredCell]) -> Group:
    """The cells of one task; cost that was measured on no task of the study's belongs to every
    task.
    """
    model, _, *budget = key
    control = (model, CONTROL, *budget)
    quality = [cell for cell in cells if cell.kind == "quality" and cell.task == task]
    cost = []
    for cell in cells:
        on_task = cell.task == task or cell.task not in tasks
        if cell.kind == "cost" and _key(cell) == key and on_task:
            cost.append(cell)
    return Group(
        task=task,
        cells=tuple(cell for cell in quality if _key(cell) == key),
        cost=tuple(cost),
        baseline=tuple(cell for cell in quality if cell.method == BASELINE),
        control=tuple(cell for cell in quality if _key(cell) == control),
    )


def _row(groups: Sequence[Group], warn: Warn) -> Row:
    """The columns of one row behind its task, a group of columns at a time."""
    cells = _every([group.cells for group in groups])
    cost = _every([group.cost for group in groups])
    first = (cells or cost)[:1]
    method = first[0].method if first else BASELINE
    row: Row = {"seeds": len({cell.seed for cell in cells or cost})}
    row |= _accuracy(groups, warn)
    baseline = _all([group.against_baseline(warn) for group in groups])
    row |= _relative(groups, baseline)
    notes: list[str] = []
    if method != BASELINE and baseline is not None:
        row |= _against_none(groups, baseline, warn, notes)
    if method not in (BASELINE, CONTROL):
        control = _all([group.against_control(warn) for group in groups])
        if control is not None:
            row |= _against_random(groups, control, warn, notes)
    for column, board in on_board():
        row |= FOLDS[board.fold](groups, column, board)
    return row | _status(groups, notes) | _origin(groups)


def _accuracy(groups: Sequence[Group], warn: Warn) -> Row:
    """The primary metric, and for how many samples of how many it speaks."""
    row: Row = {}
    accuracies = [group.accuracy(warn) for group in groups]
    counts: list[int | None] = []
    for group, own in zip(groups, accuracies, strict=True):
        total = group.asked()
        # a cell that does not say speaks for all that it has
        counts.append(own.n if total is None and own is not None else total)
    present = _all(counts)
    row["n_asked"] = None if present is None else sum(present)
    whole = _all(accuracies)
    if whole:
        accuracy = _pooled(whole)
        row |= {"n": accuracy.n} | _ends("accuracy", accuracy)
    return row


def _relative(groups: Sequence[Group], pairs: Sequence[Pair] | None) -> Row:
    """Accuracy over that of the unpruned model; without an interval where the metric is no mean of
    samples.
    """
    if pairs is None:
        return {"relative_accuracy": _over(groups, Group.relative)}
    return _ends("relative_accuracy", statistics.relative(pairs))


def _against_none(
    groups: Sequence[Group], pairs: Sequence[Pair], warn: Warn, notes: list[str]
) -> Row:
    """Accuracy less that of the unpruned model; what is to be said of it goes to `notes`."""
    gap = statistics.difference(pairs)
    notes += _on_fewer_samples(groups, [group.baseline for group in groups], pairs, warn)
    return _ends("difference_to_none", gap) | {"n_paired": gap.n}


def _against_random(
    groups: Sequence[Group], pairs: Sequence[Pair], warn: Warn, notes: list[str]
) -> Row:
    """Accuracy less that of the random control, and whether the method is better."""
    gap = statistics.difference(pairs)
    notes += _on_fewer_samples(groups, [group.control for group in groups], pairs, warn)
    row: Row = _ends("difference_to_random", gap) | {"n_paired_random": gap.n}
    cells = _every([group.cells for group in groups])
    directions = {cell.more_is_better for cell in cells}
    if len(directions) == 1:  # tasks that disagree on what is better have no pooled answer
        better = gap.sure and (gap.value > 0) in directions
        row["better_than_random"] = "yes" if better else "no"
    return row


def _on_fewer_samples(
    groups: Sequence[Group],
    others: Sequence[Sequence[StoredCell]],
    pairs: Sequence[Pair],
    warn: Warn,
) -> list[str]:
    """For every task whose pair is smaller than what one of the two answered, on how many samples
    it stands.
    """
    notes = []
    for group, other, pair in zip(groups, others, pairs, strict=True):
        note = group.paired(other, pair, warn)
        if note:
            notes.append(f"{group.task}: {note}" if len(groups) > 1 else note)
    return notes


# ---- what was measured: one function a fold ------------------------------------------------------


def _mean(groups: Sequence[Group], column: Column, board: Board) -> Row:
    row: Row = {board.name: _over(groups, partial(Group.value, name=column.metric))}
    if board.beside is not None:
        beside = partial(BESIDE[board.beside], name=column.metric)
        row[board.names[1]] = _over(groups, beside)
    return row


def _available(groups: Sequence[Group], column: Column, board: Board) -> Row:
    return {board.name: _over(groups, partial(Group.offered, name=column.metric))}


def _measured(groups: Sequence[Group], column: Column, board: Board) -> Row:
    values = [average(group.cost, column.metric) for group in groups]
    present = [value for value in values if value is not None]
    return {board.name: sum(present) / len(present) if present else None}


def _interval(groups: Sequence[Group], column: Column, board: Board) -> Row:
    intervals = [group.interval(column.metric) for group in groups]
    present = [interval for interval in intervals if interval is not None]
    return _ends(board.name, _pooled(present)) if present else {}


FOLDS: Mapping[str, Callable[[Sequence[Group], Column, Board], Row]] = {
    "mean": _mean,
    "available": _available,
    "measured": _measured,
    "interval": _interval,
}
BESIDE: Mapping[str, Callable[..., float | None]] = {
    "share": Group.share,
    "ratio": Group.over_baseline,
    "random": Group.of_control,
}


# ---- status and origin ---------------------------------------------------------------------------


def _status(groups: Sequence[Group], notes: Sequence[str]) -> Row:
    """Quality's status, or cost's where there is no quality; a reason also where only the cost pass
    went wrong.

    A cell that is ok may have a reason, too: it speaks for fewer samples than the task has.
    """
    quality = _every([group.cells for group in groups])
    cost = _every([group.cost for group in groups])
    cells = quality or cost
    missing = _missing_tasks(groups, bool(quality))
    statuses = {cell.status for cell in cells}
    mixed = len(statuses) > 1 or (bool(missing) and statuses == {"ok"})
    reasons = [_reason(cell, mixed, len(groups) > 1) for cell in cells]
    if missing:
        reasons.append(f"not run on {', '.join(missing)}")
    if quality:
        reasons += _cost_reasons(cost, {cell.first_reason for cell in quality})
    status = PARTIAL if mixed else statuses.pop()
    return {"status": status, "reason": joined([*reasons, *notes])}


def _missing_tasks(groups: Sequence[Group], quality: bool) -> list[str]:
    """Tasks on which there is no cell of the kind that the row speaks of."""
    missing = []
    for group in groups:
        cells = group.cells if quality else group.cost
        if not cells:
            missing.append(group.task)
    return missing


def _reason(cell: StoredCell, mixed: bool, several: bool) -> str:
    """A cell's reason, with what it is of where that does not go without saying."""
    reason = cell.first_reason
    if mixed and not cell.ok:
        return f"{cell.task} seed {cell.seed} {cell.status}: {reason}"
    if several and cell.ok and reason:
        return f"{cell.task}: {reason}"
    return reason


def _cost_reasons(cost: Sequence[StoredCell], quality_reasons: set[str]) -> list[str]:
    """What only the cost pass has to say."""
    reasons = []
    for cell in cost:
        if not cell.ok and cell.first_reason not in quality_reasons:
            reasons.append(f"cost {cell.status}: {cell.first_reason}")
    return reasons


def _origin(groups: Sequence[Group]) -> Row:
    """Where the numbers come from, quality and cost, task by task."""
    cells = _every([(*group.cells, *group.cost) for group in groups])
    return {
        "hardware": joined(cell.hardware for cell in cells),
        "dtype": joined(cell.dtype for cell in cells),
        "commit": joined(cell.commit for cell in cells),
    }


# ---- over tasks ----------------------------------------------------------------------------------


def _every(parts: Sequence[Sequence[StoredCell]]) -> list[StoredCell]:
    cells: list[StoredCell] = []
    for part in parts:
        cells += part
    return cells


def _over(groups: Sequence[Group], number: Callable[[Group], float | None]) -> float | None:
    """The mean over tasks; None where a task has none, for a mean over fewer tasks is another
    number.
    """
    values = _all([number(group) for group in groups])
    return None if values is None else sum(values) / len(values)


def _all(values: Sequence[T | None]) -> list[T] | None:
    """The values, None where one of them is missing."""
    present = [value for value in values if value is not None]
    return present if len(present) == len(values) else None


def _pooled(intervals: Sequence[Interval]) -> Interval:
    """The one interval, or the mean of several."""
    return intervals[0] if len(intervals) == 1 else statistics.pool(intervals)


def _ends(name: str, interval: Interval) -> Row:
    row = {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
    if isinstance(interval, Difference):
        row[f"{name}_p"] = interval.p
    return row


def _order(row: Mapping[str, Any]) -> tuple[Any, ...]:
    share = budget_share(row["budget"], row.get("tokens_available"))
    return (
        row["model"],
        row["task"] != ALL,
        row["task"],
        -share,
        row["budget_kind"],
        -row.get("accuracy", -1.0),
        row["method"],
    )
