"""Lists: the keys of a grid that hold a list, with budgets and tasks brought from what a user wrote
to the one form that is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prunebench.border.text import one_line
from prunebench.budget import Budget, BudgetError
from prunebench.run.keys import GridError
from prunebench.run.names import check_path, expanded
from prunebench.run.plain import short
from prunebench.study.record import BASELINE, OWN

CONTROLS = (BASELINE, "random", "uniform", "pool", "resize")
"""Methods every study holds, so that any other is seen beside the cheapest things that could be
done instead.
"""

LISTS = ("models", "methods", "tasks", "budgets")
"""Keys that hold a list, or a single thing that stands for a list of one."""

SINGULAR = {"model": "models", "method": "methods", "task": "tasks", "budget": "budgets"}
"""The same keys as one writes them for a single thing."""

MOST_TOKENS = 10**9


def in_plural(content: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a grid with each list under its one name; raises GridError where a list stands
    under both.
    """
    renamed: dict[str, Any] = {}
    for key, value in content.items():
        name = SINGULAR.get(key, key)
        if name in renamed:
            singular = next(one for one, plural in SINGULAR.items() if plural == name)
            raise GridError(f"{singular} and {name} are the same key; write {name} alone")
        renamed[name] = value
    return renamed


def model_names(entries: Sequence[Any]) -> list[str]:
    """Every model once; raises GridError.

    Whether there is such a model is found out when it is looked up.
    """
    from prunebench.run.cell import slug

    names: list[str] = []
    for entry in entries:
        if not isinstance(entry, str):
            raise GridError(f"model {short(entry)} is no name; write an alias, an id or a folder")
        check_path("a model", entry)
        names.append(expanded(entry))
    return _apart("models", names, slug)


def budget_texts(entries: Sequence[Any]) -> list[str]:
    """Every budget once, written one way; raises GridError."""
    texts = []
    for entry in entries:
        if entry == OWN:
            texts.append(OWN)
            continue
        try:
            budget = Budget.parse(entry)
        except BudgetError as error:
            raise GridError(f"budgets: {one_line(str(error), 200, tail=100)}") from None
        if budget.nearest:
            raise GridError(
                f"budgets: {short(str(budget))} begins with ~; write {str(budget)[1:]} and "
                "reach=nearest"
            )
        if budget.amount > MOST_TOKENS:
            raise GridError(
                f"budgets: {short(str(budget))} is a count beyond any image; "
                f"the most is {MOST_TOKENS}"
            )
        texts.append(str(budget))
    return list(dict.fromkeys(texts))


def task_names(entries: Sequence[Any]) -> list[str]:
    """Every task once, suites replaced by their tasks; raises GridError.

    Whether a public task exists is lmms-eval's to say, when the task is loaded.
    """
    from prunebench import benchmarks
    from prunebench.run.cell import slug

    names: list[str] = []
    for entry in entries:
        if not isinstance(entry, str):
            raise GridError(f"task {short(entry)} is no name; write scenes, gqa or ./my_task.yaml")
        check_path("a task", entry)
        try:
            names += benchmarks.expand(expanded(entry))
        except benchmarks.TaskError as error:
            raise GridError(str(error)) from None
    return _apart("tasks", names, slug)


def _apart(key: str, names: Sequence[str], slug: Callable[[str], str]) -> list[str]:
    """Every name once; raises GridError where two would share a folder's name."""
    folders: dict[str, str] = {}
    for name in dict.fromkeys(names):
        folder = slug(name).lower()  # some file systems make no difference
        twin = folders.setdefault(folder, name)
        if twin != name:
            raise GridError(
                f"{key} {short(twin)} and {short(name)} would share the folder name "
                f"{short(folder)}; rename one"
            )
    return list(folders.values())
