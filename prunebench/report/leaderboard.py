"""Leaderboard: one row per model, method, budget and task, folded from the cells of all seeds.

Where a model was run on several tasks, a row with task "all" holds the mean over tasks of every
number. A number that was not measured is empty. Where a method or the unpruned model did not answer
every sample, shares and ratios are taken over the samples that both answered, and the reason says
so. Rows are sorted by model, task ("all" first), budget (largest first), accuracy. What the columns
are stands in `headings`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from prunebench.border.files import opened
from prunebench.border.text import one_line
from prunebench.report import beside, clock, marks, printed, tables
from prunebench.report.beside import RESIZE
from prunebench.report.comparison import Group, Warn, average, scale_of
from prunebench.report.headings import ABOVE_BLIND, ALL, COLUMNS, N_BLIND, PORT, SOMETIMES, TEXTS
from prunebench.study import contrasts, statistics
from prunebench.study.cells import ReportError, StoredCell, joined
from prunebench.study.columns import Board, Column, on_board
from prunebench.study.contrasts import Difference, Pairs
from prunebench.study.record import BASELINE, BLIND, CONTROL
from prunebench.study.statistics import Interval

__all__ = ["ALL", "COLUMNS", "TEXTS", "budget_share", "fold", "load"]

T = TypeVar("T")
Row = dict[str, Any]

PARTIAL = "partial"

PAIRED = {"none": "n_paired_none", "random": "n_paired_random"}
"""The column that says on how many samples a difference stands."""

Key = tuple[str, str, str, str]
"""Model, method, budget kind, budget: what has a row per task."""


def fold(cells: Sequence[StoredCell], warn: Warn) -> pd.DataFrame:
    """The leaderboard as text; `warn` hears of cells that are damaged or cannot be compared."""
    rows = _every_row(cells, warn)
    columns = COLUMNS
    for heading in SOMETIMES:
        if any(heading.name in row for row in rows):
            columns += tuple(heading.names)
    return tables.texts(rows, columns)


@dataclass(frozen=True)
class Line:
    """A row of the leaderboard as it is written: the columns that every study has, and those of
    `SOMETIMES` by name.
    """

    model: str
    text: str
    more: Mapping[str, str]

    def of(self, names: Sequence[str]) -> str:
        """The line of a leaderboard that has these columns besides."""
        return ",".join([self.text, *(self.more.get(name, "") for name in names)])


def lines(cells: Sequence[StoredCell], warn: Warn) -> list[Line]:
    """The rows of some models, all of whose cells these are."""
    every = []
    for row in _every_row(cells, warn):
        more: dict[str, str] = {}
        for heading in SOMETIMES:
            if heading.name in row:
                more |= {name: tables.line([row.get(name)]) for name in heading.names}
        text = tables.line([row.get(name) for name in COLUMNS])
        every.append(Line(row["model"], text, more))
    return every


def write(path: Path, every: Iterable[Line]) -> Path:
    """Write the leaderboard of all models."""
    in_order = sorted(every, key=lambda one: one.model)
    names: list[str] = []
    for heading in SOMETIMES:
        if any(heading.name in one.more for one in in_order):
            names += heading.names
    texts = (one.of(names) for one in in_order)
    return tables.write_lines(path, (*COLUMNS, *names), texts)


def _every_row(cells: Sequence[StoredCell], warn: Warn) -> list[Row]:
    """The rows in their order."""
    rows: list[Row] = []
    by_model: dict[str, list[StoredCell]] = {}
    for cell in cells:
        by_model.setdefault(cell.model, []).append(cell)
    for _, of_model in sorted(by_model.items()):
        rows += _rows(of_model, warn)
    marks.add(rows)
    printed.add(rows)
    return sorted(rows, key=_order)


def load(path: Path) -> pd.DataFrame:
    """leaderboard.csv with numbers as floats (NaN where empty) and texts as texts; raises
    ReportError.
    """
    more = _joined([heading.names for heading in SOMETIMES])
    numbers = [name for name in (*COLUMNS, *more) if name not in TEXTS]
    try:
        with opened(path) as file:
            board = pd.read_csv(
                file,
                keep_default_na=False,  # a method is called "none"
                dtype=dict.fromkeys(TEXTS, str) | dict.fromkeys(numbers, float),
                na_values={name: [""] for name in numbers},
            )
        extra = [name for name in more if name in board]
        board = board[[*COLUMNS, *extra]]
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
    for name in (name for name in TEXTS if name in board):
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
    # digits alone are a count: "1" is one token, "1.0" all of them
    return amount / (available or 1.0) if budget.isdigit() else amount


# ---- what a row is folded from -------------------------------------------------------------------


@dataclass(frozen=True)
class Groups:
    """The cells behind one row: a group for its task, or one for each task of the model."""

    parts: tuple[Group, ...]

    @cached_property
    def quality(self) -> list[StoredCell]:
        """The method's quality cells of all tasks."""
        return _joined([group.cells for group in self.parts])

    @cached_property
    def cost(self) -> list[StoredCell]:
        """The method's cost cells of all tasks."""
        return _joined([group.cost for group in self.parts])

    @property
    def cells(self) -> list[StoredCell]:
        """The cells that the row's status and seeds are of: quality's, else cost's."""
        return self.quality or self.cost

    @property
    def method(self) -> str:
        """The method that the row is of."""
        return self.cells[0].method if self.cells else BASELINE

    @property
    def several(self) -> bool:
        """Whether the row stands for several tasks."""
        return len(self.parts) > 1

    @cached_property
    def scales(self) -> list[str]:
        """The scales of the tasks' primary metrics; of one scale numbers can be averaged."""
        return sorted({group.scale for group in self.parts if group.scale})

    @property
    def directions(self) -> set[bool]:
        """Whether more is better, of every cell."""
        return {cell.more_is_better for cell in self.quality}

    def each(self, number: Callable[[Group], T | None]) -> list[T] | None:
        """What every task has; None where one lacks it."""
        values = [number(group) for group in self.parts]
        present = [value for value in values if value is not None]
        return present if len(present) == len(values) else None

    def some(self, number: Callable[[Group], T | None]) -> list[T]:
        """What those tasks have that have it."""
        values = [number(group) for group in self.parts]
        return [value for value in values if value is not None]

    def mean(self, number: Callable[[Group], float | None]) -> float | None:
        """The mean over tasks; None where a task has none, for a mean over fewer tasks is another
        number.
        """
        values = self.each(number)
        return None if values is None else sum(values) / len(values)


def _rows(cells: Sequence[StoredCell], warn: Warn) -> Iterable[Row]:
    """All rows of one model."""
    tasks = _tasks(cells)
    shelf = _shelf(cells, tasks)
    first_cells: dict[Key, StoredCell] = {}
    for cell in cells:
        first_cells.setdefault(_key(cell), cell)
    abouts: list[Row] = []
    every: list[Groups] = []
    for key in sorted(first_cells):
        about = _about(first_cells[key])
        groups = [_group(key, task, shelf) for task in tasks]
        for group in groups:
            if group.cells or group.cost:
                abouts.append({**about, "task": group.task})
                every.append(Groups((group,)))
        # the blind value is of those tasks alone that need it, and no mean over all
        everywhere = all(group.cells or group.cost for group in groups)
        if len(tasks) > 1 and (about["method"] != BLIND or everywhere):
            abouts.append({**about, "task": ALL})
            every.append(Groups(tuple(groups)))
    compared = _compared(every, warn)
    for about, row, comparisons in zip(abouts, every, compared, strict=True):
        yield {**about, **_row(row, comparisons, warn)}


def _tasks(cells: Sequence[StoredCell]) -> list[str]:
    """The tasks of quality cells; those of cost where there is nothing else."""
    quality = {cell.task for cell in cells if cell.kind == "quality"}
    return sorted(quality or {cell.task for cell in cells})


def _key(cell: StoredCell) -> Key:
    return cell.model, cell.method, cell.budget_kind, cell.budget


def _about(cell: StoredCell) -> Row:
    """What was run: the same for all cells of a key."""
    about: Row = {
        "model": cell.model,
        "method": cell.method,
        "settings": cell.settings_line,
        "control": cell.is_control,
        "budget_kind": cell.budget_kind,
        "budget": cell.budget,
    }
    if cell.port:
        about[PORT.name] = cell.port
    return about


@dataclass(frozen=True)
class Shelf:
    """The cells of one model by what rows ask for: quality by task and key, and by task and method;
    cost by key, where it was measured on one of the study's tasks by that as well; and the scale of
    every task.
    """

    quality: Mapping[tuple[str, Key], list[StoredCell]]
    methods: Mapping[tuple[str, str], list[StoredCell]]
    cost: Mapping[tuple[str | None, Key], list[StoredCell]]
    scales: Mapping[str, str]


def _shelf(cells: Sequence[StoredCell], tasks: Sequence[str]) -> Shelf:
    quality: dict[tuple[str, Key], list[StoredCell]] = defaultdict(list)
    methods: dict[tuple[str, str], list[StoredCell]] = defaultdict(list)
    cost: dict[tuple[str | None, Key], list[StoredCell]] = defaultdict(list)
    of_task: dict[str, list[StoredCell]] = defaultdict(list)
    task_names = frozenset(tasks)
    for cell in cells:
        if cell.kind == "cost":
            cost[cell.task if cell.task in task_names else None, _key(cell)].append(cell)
            continue
        quality[cell.task, _key(cell)].append(cell)
        methods[cell.task, cell.method].append(cell)
        of_task[cell.task].append(cell)
    scales = {task: scale_of(task, of_task[task]) for task in tasks}
    return Shelf(quality, methods, cost, scales)


def _group(key: Key, task: str, shelf: Shelf) -> Group:
    """The cells of one task, and those that they are compared with.

    Cost that was measured on no task of the study's belongs to every task.
    """
    model, _, budget_kind, budget = key
    cost = [*shelf.cost.get((task, key), ()), *shelf.cost.get((None, key), ())]
    return Group(
        task,
        tuple(shelf.quality.get((task, key), ())),
        tuple(sorted(cost, key=lambda cell: cell.id)),
        tuple(shelf.methods.get((task, BASELINE), ())),
        tuple(shelf.quality.get((task, (model, CONTROL, budget_kind, budget)), ())),
        tuple(shelf.methods.get((task, BLIND), ())),
        tuple(shelf.quality.get((task, (model, RESIZE, budget_kind, budget)), ())),
        shelf.scales[task],
    )


@dataclass(frozen=True)
class Comparisons:
    """What a row is compared with: its pairs, and what they show; None where there are none."""

    baseline: Pairs | None
    control: Pairs | None
    relative: Interval | None
    to_none: Difference | None
    to_random: Difference | None
    to_blind: Difference | None


def _compared(every: Sequence[Groups], warn: Warn) -> list[Comparisons]:
    """The comparisons of all rows of a model, which are drawn together."""
    baselines: list[Pairs | None] = []
    controls: list[Pairs | None] = []
    blinds: list[Pairs | None] = []
    for groups in every:
        control: Pairs | None = None
        blind: Pairs | None = None
        baseline: Pairs | None = groups.each(partial(Group.against_baseline, warn=warn))
        if groups.method not in (BASELINE, CONTROL):
            control = groups.each(partial(Group.against_control, warn=warn))
        if groups.method != BLIND and len(groups.scales) <= 1:
            blind = groups.each(partial(Group.against_blind, warn=warn))
        baselines.append(baseline)
        controls.append(control)
        blinds.append(blind)
    columns = (
        baselines,
        controls,
        _where(baselines, contrasts.relatives),
        _where(baselines, contrasts.differences),
        _where(controls, contrasts.differences),
        _where(blinds, contrasts.differences),
    )
    return [Comparisons(*row) for row in zip(*columns, strict=True)]


def _where(
    every: Sequence[Pairs | None], number: Callable[[Sequence[Pairs]], list[T]]
) -> list[T | None]:
    """The number of all those that have pairs, at their places."""
    present = [pairs for pairs in every if pairs is not None]
    numbers = iter(number(present))
    of_each: list[T | None] = []
    for pairs in every:
        of_each.append(None if pairs is None else next(numbers))
    return of_each


def _row(groups: Groups, compared: Comparisons, warn: Warn) -> Row:
    """The columns of one row behind its task, a group of columns at a time."""
    method = groups.method
    seeds = {cell.seed for cell in groups.cells}
    notes: list[str] = []
    row: Row = {"seeds": len(seeds)}
    if groups.quality:
        row[printed.METRIC] = groups.quality[0].metric
        row[printed.PRUNER] = groups.quality[0].pruner
    row |= _accuracy(groups, warn, notes)
    # tasks that disagree on what is better, or by how much, have no pooled answer
    if len(groups.directions) == 1 and len(groups.scales) <= 1:
        row[marks.UPWARDS] = True in groups.directions
    row |= _relative(groups, compared.relative)
    if method != BASELINE and compared.to_none is not None:
        row |= _against(groups, "none", compared.to_none)
        notes += _notes(groups, [group.baseline for group in groups.parts], compared.baseline, warn)
    if compared.to_random is not None:
        row |= _against(groups, "random", compared.to_random)
        notes += _notes(groups, [group.control for group in groups.parts], compared.control, warn)
    if method != BLIND:
        row |= _above_blind(groups, compared.to_blind)
    for column, board in on_board():
        fold_number = FOLDS[board.fold]
        row |= fold_number(groups, column, board)
    row |= clock.columns(groups.parts)
    row |= beside.columns(groups.parts, warn)
    row |= _status(groups, notes)
    return row | _origin(groups)


# ---- accuracy ------------------------------------------------------------------------------------


def _accuracy(groups: Groups, warn: Warn, notes: list[str]) -> Row:
    """The primary metric, and for how many samples of how many it speaks; no mean over tasks whose
    metrics stand on different scales.
    """
    accuracies = groups.each(partial(Group.accuracy, warn=warn))
    totals = groups.each(partial(_total, warn=warn))
    row: Row = {"n_asked": None if totals is None else sum(totals)}
    if accuracies is not None:
        row["n"] = sum(accuracy.n for accuracy in accuracies)
        if len(groups.scales) > 1:
            notes.append(f"no mean accuracy over different scales ({'; '.join(groups.scales)})")
        else:
            row |= _ends("accuracy", _pooled(accuracies))
    return row


def _total(group: Group, warn: Warn) -> int | None:
    """Samples of the task; those behind the accuracy where no cell says."""
    total = group.asked()
    if total is not None:
        return total
    accuracy = group.accuracy(warn)
    return None if accuracy is None else accuracy.n


def _relative(groups: Groups, relative: Interval | None) -> Row:
    """Accuracy over that of the unpruned model; without an interval where the metric is no mean of
    samples, and without a mean over tasks that disagree on what is better.
    """
    if len(groups.directions) > 1:
        return {}
    if relative is None:
        return {"relative_accuracy": groups.mean(Group.relative)}
    return _ends("relative_accuracy", relative)


def _against(groups: Groups, reference: str, gap: Difference) -> Row:
    """Accuracy less that of the unpruned model, or of the random control."""
    row: Row = {PAIRED[reference]: gap.n}
    if len(groups.scales) <= 1:
        row |= _ends(f"difference_to_{reference}", gap)
    return row


def _above_blind(groups: Groups, gap: Difference | None) -> Row:
    """Accuracy less that of the model without its images, where every task has that; without an
    interval where the metric is no mean of samples, and none over tasks of different scales.
    """
    if len(groups.scales) > 1:
        return {}
    if gap is not None:
        return _ends(ABOVE_BLIND.name, gap) | {N_BLIND.name: gap.n}
    value = groups.mean(Group.above_blind)
    return {} if value is None else {ABOVE_BLIND.name: value}


def _notes(
    groups: Groups, others: Sequence[Sequence[StoredCell]], pairs: Pairs | None, warn: Warn
) -> list[str]:
    """A note for every task whose pair is smaller than what one of the two answered."""
    notes = []
    for group, other, pair in zip(groups.parts, others, pairs or [], strict=True):
        note = group.paired(other, pair, warn)
        if note:
            notes.append(f"{group.task}: {note}" if groups.several else note)
    return notes


# ---- what was measured: one function a fold ------------------------------------------------------


def _mean(groups: Groups, column: Column, board: Board) -> Row:
    """The mean over tasks, and what stands beside it."""
    row: Row = {board.name: groups.mean(partial(Group.value, name=column.metric))}
    if board.beside is not None:
        number = BESIDE[board.beside]
        row[board.names[1]] = groups.mean(partial(number, name=column.metric))
    return row


def _available(groups: Groups, column: Column, board: Board) -> Row:
    """The mean over tasks of what the unpruned model has."""
    return {board.name: groups.mean(partial(Group.offered, name=column.metric))}


def _measured(groups: Groups, column: Column, board: Board) -> Row:
    """The mean over the tasks on which cost was measured."""
    # not `each`: of several tasks the cost pass runs on the first only
    values = groups.some(lambda group: average(group.cost, column.metric))
    return {board.name: sum(values) / len(values) if values else None}


def _interval(groups: Groups, column: Column, board: Board) -> Row:
    """The same, with the interval of the cells."""
    intervals = groups.some(partial(Group.interval, name=column.metric))
    return _ends(board.name, _pooled(intervals)) if intervals else {}


FOLDS: Mapping[str, Callable[[Groups, Column, Board], Row]] = {
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


def _status(groups: Groups, notes: Sequence[str]) -> Row:
    """Quality's status, or cost's where there is no quality; a reason also where only the cost pass
    went wrong.

    A cell that is ok may have a reason, too: it speaks for fewer samples than the task has.
    """
    missing = _missing_tasks(groups)
    statuses = {cell.status for cell in groups.cells}
    mixed = len(statuses) > 1 or (bool(missing) and statuses == {"ok"})
    reasons = [_reason(cell, mixed, groups.several) for cell in groups.cells]
    if missing:
        reasons.append(f"not run on {', '.join(missing)}")
    if groups.quality:
        reasons += _cost_reasons(groups)
    status = PARTIAL if mixed else statuses.pop()
    return {"status": status, "reason": joined([*reasons, *notes])}


def _missing_tasks(groups: Groups) -> list[str]:
    """Tasks on which there is no cell of the kind that the row's status is of."""
    missing = []
    for group in groups.parts:
        cells = group.cells if groups.quality else group.cost
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


def _cost_reasons(groups: Groups) -> list[str]:
    """What only the cost pass has to say."""
    quality_reasons = {cell.first_reason for cell in groups.quality}
    reasons = []
    for cell in groups.cost:
        if not cell.ok and cell.first_reason not in quality_reasons:
            reasons.append(f"cost {cell.status}: {cell.first_reason}")
    return reasons


def _origin(groups: Groups) -> Row:
    """Where the numbers come from, quality and cost, task by task."""
    cells = _joined([(*group.cells, *group.cost) for group in groups.parts])
    return {
        "hardware": joined(cell.hardware for cell in cells),
        "dtype": joined(cell.dtype for cell in cells),
        "commit": joined(cell.commit for cell in cells),
    }


# ---- helpers -------------------------------------------------------------------------------------


def _joined(parts: Sequence[Sequence[T]]) -> list[T]:
    """The members of all parts in a row."""
    members: list[T] = []
    for part in parts:
        members += part
    return members


def _pooled(intervals: Sequence[Interval]) -> Interval:
    """The one interval, or the mean of several."""
    return intervals[0] if len(intervals) == 1 else statistics.pool(intervals)


def _ends(name: str, interval: Interval) -> Row:
    """The columns of a number with its interval; a difference also has its p-value."""
    row: Row = {
        name: interval.value,
        f"{name}_low": interval.low,
        f"{name}_high": interval.high,
    }
    if isinstance(interval, Difference):
        row[f"{name}_p"] = interval.p
    return row


def _order(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Where a row stands among the others."""
    share = budget_share(row["budget"], row.get("tokens_available"))
    return (
        row["model"],
        row["task"] != ALL,
        row["task"],
        -share,
        row["budget_kind"],
        # a row without accuracy stands last
        -row.get("accuracy", -1.0),
        row["method"],
    )
