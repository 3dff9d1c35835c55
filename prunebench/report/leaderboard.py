"""Leaderboard: one row per model, method, budget and task, folded from the cells of all seeds.

Where a model was run on several tasks, a row with task "all" holds the mean over tasks of every
number. Columns:

model, method, settings, control    what ran; a control stands in the study only to be compared with
budget_kind, budget, task           what was asked, as written in the grid seeds, n, n_asked
seeds pooled; samples behind the accuracy (of all tasks in row "all"); samples asked accuracy, _low,
_high               the task's primary metric, mean over seeds, with its 95 % interval
relative_accuracy, _low, _high      accuracy over that of "none" on the same samples
difference_to_none, _low, _high, _p accuracy minus that of "none": paired difference of per-sample
scores n_paired                            samples that both answered: those behind the two
comparisons with "none" tokens_available                    visual tokens the unpruned model has
tokens_mean, _input, _kv, _share    tokens achieved per sample: entering an LLM layer (mean), layer
0, and in the cache flops, flops_ratio                  prefill FLOPs per sample, selector included,
and over those of "none" kv_bytes, peak_memory_mib           KV cache after prefill; peak memory of
the cost pass prefill_ratio, total_ratio, ...     time over the unpruned model's, median over
interleaved pairs, with 95 % interval evidence_recall, _random            share of the evidence
box's tokens alive, mean over layers; that of "random" at this budget difference_to_random, ..., _p
accuracy minus that of "random" at this budget, paired n_paired_random                     samples
that both answered better_than_random                  yes | no at 95 %, empty where there is no
random to compare with status, reason                      ok | failed | oom | unsupported |
infeasible | partial (some seeds or tasks only) hardware, dtype, commit             where the
numbers come from

A number that was not measured is empty. Where a method or the unpruned model did not answer every
sample, shares and ratios are taken over the samples that both answered, and the reason says so.
Rows are sorted by model, task ("all" first), budget (largest first), accuracy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from prunebench.border.files import opened
from prunebench.border.text import one_line
from prunebench.report import tables
from prunebench.report.comparison import Group, Warn, average
from prunebench.study import statistics
from prunebench.study.cells import CONTROL, Cell, ReportError, joined
from prunebench.study.record import BASELINE
from prunebench.study.statistics import Difference, Interval, Pair

T = TypeVar("T")
ALL = "all"
PARTIAL = "partial"
INTERVAL = ("", "_low", "_high")
DIFFERENCE = (*INTERVAL, "_p")
TEXTS = ("model", "method", "settings", "control", "budget_kind", "budget", "task", "better_than_random", "status",
         "reason", "hardware", "dtype", "commit")  # fmt: skip
COLUMNS = (
    "model", "method", "settings", "control", "budget_kind", "budget", "task", "seeds", "n", "n_asked",
    *(f"accuracy{end}" for end in INTERVAL),
    *(f"relative_accuracy{end}" for end in INTERVAL),
    *(f"difference_to_none{end}" for end in DIFFERENCE), "n_paired",
    "tokens_available", "tokens_mean", "tokens_mean_share", "tokens_input", "tokens_input_share", "tokens_kv",
    "tokens_kv_share", "flops", "flops_ratio", "kv_bytes", "peak_memory_mib",
    *(f"prefill_ratio{end}" for end in INTERVAL),
    *(f"total_ratio{end}" for end in INTERVAL),
    "evidence_recall", "evidence_recall_random",
    *(f"difference_to_random{end}" for end in DIFFERENCE),
    "n_paired_random", "better_than_random", "status", "reason", "hardware", "dtype", "commit",
)  # fmt: skip

Key = tuple[str, str, str, str]
"""Model, method, budget kind, budget: what has a row per task."""


def fold(cells: Sequence[Cell], warn: Warn) -> pd.DataFrame:
    """The leaderboard as text; `warn` hears of cells that are damaged or cannot be compared."""
    models = sorted({c.model for c in cells})
    rows = [row for model in models for row in _rows([c for c in cells if c.model == model], warn)]
    return tables.texts(sorted(rows, key=_order), COLUMNS)


def load(path: Path) -> pd.DataFrame:
    """leaderboard.csv with numbers as floats (NaN where empty) and texts as texts; raises
    ReportError.
    """
    try:
        with opened(path) as file:
            board = pd.read_csv(
                file,
                keep_default_na=False,  # a method is called "none"
                dtype={name: str if name in TEXTS else float for name in COLUMNS},
                na_values={name: [""] for name in COLUMNS if name not in TEXTS},
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


def asked(budget: str, available: float | None) -> float:
    """A budget's text as a share of the available tokens, for sorting; -1 where it is a method's
    own.
    """
    try:
        amount = float(budget)
    except ValueError:
        return -1.0
    return amount / (available or 1.0) if budget.isdigit() else amount


def _rows(cells: Sequence[Cell], warn: Warn) -> Iterable[dict[str, Any]]:
    """All rows of one model."""
    tasks = sorted({c.task for c in cells if c.kind == "quality"} or {c.task for c in cells})
    for key in sorted({_key(c) for c in cells}):
        groups = [_group(key, task, tasks, cells) for task in tasks]
        first = next(c for c in cells if _key(c) == key)
        facts = {
            "model": key[0],
            "method": key[1],
            "settings": first.settings,
            "control": first.control,
        }
        facts |= {"budget_kind": key[2], "budget": key[3]}
        for group in groups:
            if group.cells or group.cost:
                yield facts | {"task": group.task} | _row([group], warn)
        if len(tasks) > 1:
            yield facts | {"task": ALL} | _row(groups, warn)


def _key(cell: Cell) -> Key:
    return cell.model, cell.method, cell.budget_kind, cell.budget


def _group(key: Key, task: str, tasks: Sequence[str], cells: Sequence[Cell]) -> Group:
    """Cost that was measured on no task of the study's belongs to every task."""
    same = [c for c in cells if c.kind == "quality" and c.task == task]
    return Group(
        task=task,
        cells=tuple(c for c in same if _key(c) == key),
        cost=tuple(
            c
            for c in cells
            if c.kind == "cost" and _key(c) == key and (c.task == task or c.task not in tasks)
        ),
        baseline=tuple(c for c in same if c.method == BASELINE),
        control=tuple(c for c in same if _key(c) == (key[0], CONTROL, *key[2:])),
    )


def _row(groups: Sequence[Group], warn: Warn) -> dict[str, Any]:
    """The numbers of one row: the mean over its tasks."""
    cells = [c for g in groups for c in g.cells] or [c for g in groups for c in g.cost]
    method = cells[0].method if cells else BASELINE
    row: dict[str, Any] = {"seeds": len({c.seed for c in cells})}
    accuracies = [g.accuracy(warn) for g in groups]
    whole = [a for a in accuracies if a is not None]
    if len(whole) == len(groups):
        accuracy = whole[0] if len(whole) == 1 else statistics.pool(whole)
        row |= {"n": accuracy.n} | _ends("accuracy", accuracy)
    row |= {"n_asked": _asked(groups, accuracies)}
    quality, notes = _quality(groups, method, warn)
    row |= quality | _tokens(groups) | _cost(groups) | _status(groups, notes)
    every = [c for g in groups for c in (*g.cells, *g.cost)]
    return row | {
        name: joined(getattr(c, name) for c in every) for name in ("hardware", "dtype", "commit")
    }


def _asked(groups: Sequence[Group], accuracies: Sequence[Interval | None]) -> int | None:
    """Samples asked, over all tasks: those behind the accuracy where a cell does not say."""
    counts = []
    for group, accuracy in zip(groups, accuracies, strict=True):
        asked = group.asked()
        counts.append(asked if asked is not None or accuracy is None else accuracy.n)
    present = _all(counts)
    return None if present is None else sum(present)


def _quality(groups: Sequence[Group], method: str, warn: Warn) -> tuple[dict[str, Any], list[str]]:
    """The numbers that compare accuracy, and what is to be said of them."""
    row: dict[str, Any] = {"evidence_recall": _over(groups, lambda g: g.value("evidence_recall"))}
    row["evidence_recall_random"] = _over(groups, lambda g: average(g.control, "evidence_recall"))
    baseline = _all([g.against_baseline(warn) for g in groups])
    if baseline is None:
        row["relative_accuracy"] = _over(groups, Group.relative)
    else:
        row |= _ends("relative_accuracy", statistics.relative(baseline))
    if method == BASELINE:
        return row, []
    notes = []
    if baseline is not None:
        gap = statistics.difference(baseline)
        row |= _ends("difference_to_none", gap) | {"n_paired": gap.n}
        notes += _compared(groups, [g.baseline for g in groups], baseline, warn)
    control = _all([g.against_control(warn) for g in groups])
    if control is None or method == CONTROL:
        return row, notes
    gap = statistics.difference(control)
    row |= _ends("difference_to_random", gap) | {"n_paired_random": gap.n}
    notes += _compared(groups, [g.control for g in groups], control, warn)
    directions = {c.higher_is_better for g in groups for c in g.cells}
    if len(directions) == 1:  # tasks that disagree on what is better have no pooled answer
        row["better_than_random"] = "yes" if gap.sure and (gap.value > 0) in directions else "no"
    return row, notes


def _compared(
    groups: Sequence[Group], others: Sequence[Sequence[Cell]], pairs: Sequence[Pair], warn: Warn
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


def _tokens(groups: Sequence[Group]) -> dict[str, Any]:
    row: dict[str, Any] = {"tokens_available": _over(groups, Group.available)}
    for name in ("tokens_mean", "tokens_input", "tokens_kv"):
        row[name] = _over(groups, partial(Group.value, name=name))
        row[f"{name}_share"] = _over(groups, partial(Group.share, name=name))
    row["flops"] = _over(groups, lambda g: g.value("flops_total"))
    row["flops_ratio"] = _over(groups, lambda g: g.over_baseline("flops_total"))
    row["kv_bytes"] = _over(groups, lambda g: g.value("kv_bytes"))
    return row


def _cost(groups: Sequence[Group]) -> dict[str, Any]:
    """Over the tasks on which cost was measured."""
    peaks = [p for p in (average(g.cost, "peak_memory_mib") for g in groups) if p is not None]
    row: dict[str, Any] = {"peak_memory_mib": sum(peaks) / len(peaks) if peaks else None}
    for phase in ("prefill", "total"):
        ratios = [r for r in (g.ratio(phase) for g in groups) if r is not None]
        if ratios:
            row |= _ends(
                f"{phase}_ratio", ratios[0] if len(ratios) == 1 else statistics.pool(ratios)
            )
    return row


def _status(groups: Sequence[Group], notes: Sequence[str]) -> dict[str, str]:
    """Quality's status, or cost's where there is no quality; a reason also where only the cost pass
    went wrong.

    A cell that is ok may have a reason, too: it speaks for fewer samples than the task has.
    """
    quality = [c for g in groups for c in g.cells]
    cost = [c for g in groups for c in g.cost]
    cells = quality or cost
    missing = [g.task for g in groups if not (g.cells if quality else g.cost)]
    statuses = {c.status for c in cells}
    mixed = len(statuses) > 1 or (bool(missing) and statuses == {"ok"})
    reasons = [_reason(c, mixed, len(groups) > 1) for c in cells]
    if missing:
        reasons.append(f"not run on {', '.join(missing)}")
    if quality:
        reasons += _cost_reasons(cost, {c.reason for c in quality})
    return {"status": PARTIAL if mixed else statuses.pop(), "reason": joined([*reasons, *notes])}


def _reason(cell: Cell, mixed: bool, several: bool) -> str:
    """A cell's reason, with what it is of where that does not go without saying."""
    if mixed and not cell.ok:
        return f"{cell.task} seed {cell.seed} {cell.status}: {cell.reason}"
    if several and cell.ok and cell.reason:
        return f"{cell.task}: {cell.reason}"
    return cell.reason


def _cost_reasons(cost: Sequence[Cell], known: set[str]) -> list[str]:
    """What only the cost pass has to say."""
    bad = [c for c in cost if not c.ok and c.reason not in known]
    return [f"cost {c.status}: {c.reason}" for c in bad]


def _over(groups: Sequence[Group], number: Callable[[Group], float | None]) -> float | None:
    """The mean over tasks; None where a task has none, for a mean over fewer tasks is another
    number.
    """
    values = _all([number(g) for g in groups])
    return None if values is None else sum(values) / len(values)


def _all(values: Sequence[T | None]) -> list[T] | None:
    present = [value for value in values if value is not None]
    return present if len(present) == len(values) else None


def _ends(name: str, interval: Interval) -> dict[str, float]:
    row = {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
    return row | {f"{name}_p": interval.p} if isinstance(interval, Difference) else row


def _order(row: Mapping[str, Any]) -> tuple[Any, ...]:
    share = asked(row["budget"], row.get("tokens_available"))
    task = (row["task"] != ALL, row["task"])
    return (
        row["model"],
        *task,
        -share,
        row["budget_kind"],
        -row.get("accuracy", -1.0),
        row["method"],
    )
