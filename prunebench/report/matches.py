"""Matches: what two studies ran of the same, and whether they asked the same questions.

Samples go by their ids. Where one id has another right answer in the other study, or shows another
image, the two asked other questions, whatever their numbers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from prunebench.report.comparison import Group, Warn
from prunebench.study.cells import ReportError, StoredCell

QUESTION = ("reference", "image")
"""What tells a question from another one of the same number: its right answer, and what it
shows.
"""

Answers = Mapping[str, tuple[str | None, ...]]
"""By sample, what is known of its question."""


class Key(NamedTuple):
    """What a row is of."""

    model: str
    task: str
    budget_kind: str
    budget: str
    method: str


@dataclass(frozen=True)
class Study:
    """The cells of a study by what a row is of, and the questions of its tasks."""

    groups: Mapping[Key, Group]
    questions: Mapping[str, Answers]


def study_of(cells: Sequence[StoredCell], warn: Warn) -> Study:
    """What a study ran and asked; `warn` hears of what is damaged."""
    quality: dict[Key, list[StoredCell]] = defaultdict(list)
    cost: dict[Key, list[StoredCell]] = defaultdict(list)
    questions: dict[str, dict[str, tuple[str | None, ...]]] = {}
    for cell in cells:
        key = Key(cell.model, cell.task, cell.budget_kind, cell.budget, cell.method)
        if cell.kind == "cost":
            cost[key].append(cell)
            continue
        quality[key].append(cell)
        if cell.ok:
            _add_questions(questions.setdefault(cell.task, {}), cell, warn)
    groups = {}
    for key in {*quality, *cost}:
        groups[key] = Group(key.task, tuple(quality[key]), tuple(cost[key]), (), ())
    return Study(groups, questions)


def same_tasks(one: Study, other: Study) -> dict[str, str]:
    """The first study's name of a task of the second, where it has another one."""
    # tasks that were only timed have no questions
    return _only_ones(list(one.questions), list(other.questions))


def same_models(one: Study, other: Study) -> dict[str, str]:
    """The first study's name of the model of the second, where each has one and they differ."""
    mine = {key.model for key in one.groups}
    theirs = {key.model for key in other.groups}
    return _only_ones(sorted(mine), sorted(theirs))


def _only_ones(mine: Sequence[str], theirs: Sequence[str]) -> dict[str, str]:
    """The name of mine by that of theirs, where each has one and they differ."""
    if len(mine) != 1 or len(theirs) != 1 or mine == theirs:
        return {}
    return {theirs[0]: mine[0]}


def same_questions(one: Study, other: Study, task: str, names: Mapping[str, str]) -> bool:
    """Whether samples that go by one number are one question, as far as both studies say."""
    theirs: Answers = {}
    for name, questions in other.questions.items():
        if names.get(name, name) == task:
            theirs = questions
    mine = one.questions[task]
    shared = mine.keys() & theirs.keys()
    return bool(shared) and all(_agree(mine[sample], theirs[sample]) for sample in shared)


def _add_questions(
    questions: dict[str, tuple[str | None, ...]], cell: StoredCell, warn: Warn
) -> None:
    """Add what a cell says of its questions; of a sample that it did not answer it says nothing."""
    try:
        table = cell.texts(QUESTION)
    except ReportError as error:
        warn(str(error))
        return
    for sample, *values in table.itertuples(name=None):
        facts = tuple(map(_text, values))
        if any(facts) or sample not in questions:
            questions[sample] = facts


def _text(value: Any) -> str | None:
    """A text, None where there is none; a column that a file lacks holds NaN."""
    return value if isinstance(value, str) else None


def _agree(mine: tuple[str | None, ...], theirs: tuple[str | None, ...]) -> bool:
    pairs = zip(mine, theirs, strict=True)
    return all(own == other for own, other in pairs if own is not None and other is not None)
