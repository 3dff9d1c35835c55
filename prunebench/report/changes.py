"""Changes: what moved between two studies, method by method.

Questions that both studies asked are compared in pairs. Where they asked others, or a task's metric
is no mean of its samples, each number keeps the interval that it has in its own study, and the
interval of the difference is recovered from the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from prunebench.border.text import one_line
from prunebench.report.comparison import (
    SCORE,
    Group,
    Warn,
    cluster_codes,
    pair_of,
    sample_means,
    vector_of,
)
from prunebench.report.matches import Key, same_models, same_questions, same_tasks, study_of
from prunebench.study import contrasts
from prunebench.study.cells import StoredCell
from prunebench.study.contrasts import Difference
from prunebench.study.pairwise import BETTER, UNSHOWN, WORSE
from prunebench.study.statistics import Interval

UNCOMPARED = "not compared"

Scores = pd.Series
"""[n] scores by sample."""


@dataclass(frozen=True)
class Change:
    """One method at one place in two studies; `difference` is the second's number less the first's,
    None where one of them has none.

    `paired` says that both asked the same questions, of which both numbers are then means.
    `statuses` is what became of the cells in each, `groups` are these.
    """

    key: Key
    first: float | None
    second: float | None
    difference: Interval | None
    paired: bool
    statuses: tuple[str, str]
    groups: tuple[Group, Group] = field(repr=False)

    @property
    def method(self) -> str:
        """The label that both studies give it."""
        return self.key.method

    @property
    def task(self) -> str:
        """The first study's name of the task."""
        return self.key.task

    @property
    def budget(self) -> str:
        """As written in the grid."""
        return self.key.budget

    @property
    def more_is_better(self) -> bool:
        """The direction of the task's metric."""
        first, second = self.groups
        return all(cell.more_is_better for cell in (*first.cells, *second.cells))

    @property
    def p(self) -> float | None:
        """Of a difference as large where nothing changed; None where questions are not paired."""
        return self.difference.p if isinstance(self.difference, Difference) else None

    @property
    def questions(self) -> str:
        """Whether both studies asked the same, in a word; empty where nothing is compared."""
        if self.difference is None:
            return ""
        return "the same" if self.paired else "others"

    @property
    def mark(self) -> str:
        """What the second study shows of the method, beside the first."""
        if self.difference is None:
            return self._lost()
        if not (np.isfinite(self.difference.low) or self.paired):
            return UNCOMPARED
        gain = self.difference.value if self.more_is_better else -self.difference.value
        if not _is_sure(self.difference) or gain == 0:
            return UNSHOWN
        return BETTER if gain > 0 else WORSE

    def _lost(self) -> str:
        """That what ran in one study has no answers in the other is the first thing to know."""
        first, second = self.groups
        ran, runs = _ran(first), _ran(second)
        if not (first.cells and second.cells) or ran == runs:
            return UNCOMPARED
        return BETTER if runs else WORSE


@dataclass(frozen=True)
class Changes:
    """What two studies have of the same, and what only one of them has; `beside` says of the only
    tasks, or models, of two studies, which stand for each other, that they are not called the same.
    """

    rows: tuple[Change, ...]
    only_first: tuple[Key, ...]
    only_second: tuple[Key, ...]
    beside: str = ""


def between(first: Sequence[StoredCell], second: Sequence[StoredCell], warn: Warn) -> Changes:
    """What moved, sorted by model, task, budget and method.

    Where each study has one task, these stand for each other whatever they are called, and so do
    their models.
    """
    one, other = study_of(first, warn), study_of(second, warn)
    names, models = same_tasks(one, other), same_models(one, other)
    theirs = {}
    for key in other.groups:
        model, task = models.get(key.model, key.model), names.get(key.task, key.task)
        theirs[key._replace(model=model, task=task)] = key
    same = {task: same_questions(one, other, task, names) for task in one.questions}
    rows = []
    for key in sorted(one.groups):
        if key in theirs:
            groups = one.groups[key], other.groups[theirs[key]]
            rows.append(_change(key, groups, same.get(key.task, True), warn))
    only_first = tuple(key for key in sorted(one.groups) if key not in theirs)
    only_second = tuple(theirs[key] for key in sorted(theirs) if key not in one.groups)
    pairs = [("task", *pair) for pair in names.items()]
    pairs += [("model", *pair) for pair in models.items()]
    beside = []
    for what, second_name, name in pairs:
        beside.append(f"{what} {one_line(name, 60)} is set beside {one_line(second_name, 60)}")
    return Changes(tuple(rows), only_first, only_second, "; ".join(beside))


def samples_of(group: Group, warn: Warn) -> Scores[float] | None:
    """The scores of a method by sample, mean over seeds; None where they do not make its number."""
    parts = []
    for cell in group.cells:
        if cell.number(SCORE):
            scores = vector_of(cell, warn)
            if scores is None:
                return None
            parts.append(scores)
    if not parts:
        return None
    means = sample_means(parts)
    return pd.Series(means.values, index=means.ids)


# ---- a row ---------------------------------------------------------------------------------------


def _change(key: Key, groups: tuple[Group, Group], same: bool, warn: Warn) -> Change:
    """What moved for one method."""
    statuses = _statuses(groups[0]), _statuses(groups[1])
    one, other = (group.accuracy(warn) for group in groups)
    if one is None or other is None:
        return Change(key, _value(one), _value(other), None, False, statuses, groups)
    mine, theirs = (samples_of(group, warn) for group in groups) if same else (None, None)
    if mine is not None and theirs is not None:
        both = mine.dropna().index.intersection(theirs.dropna().index).sort_values()
        if len(both):
            before, after = mine.loc[both].to_numpy(), theirs.loc[both].to_numpy()
            codes = cluster_codes([*groups[0].cells, *groups[1].cells], both, warn)
            gap = contrasts.difference([pair_of(after, before, codes)])
            means = float(before.mean()), float(after.mean())
            return Change(key, *means, gap, True, statuses, groups)
    return Change(key, one.value, other.value, _apart(one, other), False, statuses, groups)


def _value(number: Interval | None) -> float | None:
    return None if number is None else number.value


def _ran(group: Group) -> bool:
    """Whether some seed has answers."""
    return any(cell.ok for cell in group.cells)


def _apart(first: Interval, second: Interval) -> Interval:
    """Second less first, its interval recovered from theirs (MOVER: Newcombe, 1998, method 10)."""
    value = second.value - first.value
    below = np.hypot(second.value - second.low, first.high - first.value)
    above = np.hypot(second.high - second.value, first.value - first.low)
    return Interval(value, value - float(below), value + float(above), first.n + second.n)


def _is_sure(difference: Interval) -> bool:
    """Whether it is not zero at 95 %."""
    if isinstance(difference, Difference):
        return difference.sure
    return difference.low > 0 or difference.high < 0


def _statuses(group: Group) -> str:
    """What became of its cells, of all seeds."""
    cells = group.cells or group.cost
    return " ".join(sorted({cell.status for cell in cells})) or "none"
