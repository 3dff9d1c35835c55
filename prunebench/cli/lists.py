"""The command `list`: what can be named in a grid."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from prunebench.border.text import message, one_line
from prunebench.cli import listing, names
from prunebench.cli.completion import completed_by
from prunebench.cli.parser import Commands, add_command

Row = dict[str, Any]


def add_commands(commands: Commands) -> None:
    """Add it to the parser."""
    parser = add_command(
        commands,
        "list",
        print_list,
        "List what can be named in a grid.",
        examples=(
            "prunebench list methods --models",
            "prunebench list models --json",
            "prunebench list tasks='refcoco*'",
        ),
    )
    words = ", ".join(LISTS)
    what = parser.add_argument(
        "what",
        type=wish,
        metavar="WHAT",
        help=f"{words}; tasks=all and tasks=PATTERN show those of lmms-eval, too, and say of each "
        "whether it can be served, and why not",
    )
    completed_by(what, list_names)
    parser.add_argument(
        "--models",
        action="store_true",
        help="with methods: on which families of models each one runs",
    )
    parser.add_argument(
        "--markdown", action="store_true", help="with --models: as the page of the documentation"
    )
    parser.add_argument("--json", action="store_true", help="as data, with nothing left out")


def list_names(**_: Any) -> list[str]:
    """Completes what can be listed."""
    return [*LISTS, "tasks="]


def print_list(arguments: argparse.Namespace) -> int:
    """Print one of the lists as a table or as JSON, or the matrix of methods and families."""
    what, pattern = arguments.what
    stray_models = arguments.models and what != "methods"
    if stray_models or (arguments.markdown and not arguments.models):
        from prunebench.registry import RegistryError

        raise RegistryError(
            "--models belongs to `list methods`, --markdown to `list methods --models`"
        )
    if arguments.models:
        return print_matrix(arguments)
    rows = served_rows(pattern) if pattern else LISTS[what]()
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return 0
    from prunebench.cli.screen import print_rich, print_table

    print_table(rows)
    if what == "tasks" and not pattern:
        print_rich(public_line())
    return 0


def wish(word: str) -> tuple[str, str]:
    """What is to be listed, and a pattern of names; raises ArgumentTypeError."""
    what, equals, pattern = word.partition("=")
    if what not in LISTS or (equals and (what != "tasks" or not pattern)):
        names_here = ", ".join(LISTS)
        fault = f"{one_line(word, 60)!r} is none of {names_here}, tasks=all, tasks=PATTERN"
        raise argparse.ArgumentTypeError(fault)
    return what, pattern


def print_matrix(arguments: argparse.Namespace) -> int:
    """Print which method runs on which family, and why one does not."""
    from prunebench.testing import matrix

    if arguments.markdown:
        print(matrix.markdown(), end="")
        return 0
    if arguments.json:
        print(json.dumps(reasons(), indent=2))
        return 0
    from prunebench.cli.screen import fits, print_table

    rows, notes = matrix.table()
    print_table(rows if fits(rows) else grouped(rows))
    for number, note in enumerate(notes, 1):
        print(f"({number}) {one_line(note, 1000)}")
    return 0


def model_rows() -> list[Row]:
    """Every short name and what it stands for."""
    rows = []
    for name, target in names.models().items():
        source = "in the package" if Path(target).is_dir() else target
        rows.append({"name": name, "source": source})
    return rows


def method_rows() -> list[Row]:
    """Every method; one whose file fails is listed as broken, with the others beside it."""
    kept = listing.kept_rows()
    rows = []
    # add-ons behind the methods, by the name that is written behind one of theirs
    for name in [*names.methods(), *(f"+{addon}" for addon in names.addons())]:
        try:
            rows.append(kept[name] if name in kept else method_row(name))
        except Exception as error:  # a file that somebody put there may raise anything
            status = f"broken: {one_line(message(error), 120)}"
            row = {"name": name, "status": status, "settings": "", "paper": None, "code": None}
            rows.append(row)
    return rows


def method_row(name: str) -> Row:
    """What is known of a method, and its settings with their defaults."""
    from prunebench import registry
    from prunebench.testing import verified

    method = registry.get(name.removeprefix("+"))
    card = registry.card(method)
    settings = [f"{key}={value}" for key, value in registry.defaults(method).items()]
    return {
        "name": name,
        "status": verified.status(name.removeprefix("+")),
        "settings": ", ".join(settings),
        "paper": card.paper,
        "code": card.code,
    }


def keep_method_rows() -> None:
    """Keep the rows of the installed methods, so that listing them imports none."""
    from prunebench import registry

    methods = {name: registry.get(name) for name in names.methods()}
    methods |= {f"+{name}": registry.get(name) for name in names.addons()}
    rows = {name: method_row(name) for name in methods}
    listing.keep(rows, methods, names.folder_of(registry.PACKAGE))


def task_rows() -> list[Row]:
    """The built-in tasks and the suites."""
    from prunebench import benchmarks

    rows = []
    for task in benchmarks.listed():
        row = asdict(task)
        row["tasks"] = ", ".join(task.tasks)
        rows.append(row)
    return rows


def served_rows(pattern: str) -> list[Row]:
    """The tasks whose names match, lmms-eval's included, each with whether it can be served; where
    the pattern is no pattern, the names that hold it.
    """
    from prunebench import benchmarks

    if pattern != "all" and not set("*?[") & set(pattern):
        pattern = f"*{pattern}*"
    rows = [served_row(task.name, task.kind, "") for task in benchmarks.listed()]
    lacking = benchmarks.judge.missing()
    for task in benchmarks.public_tasks().values():
        refusal = task.why_not(lacking)
        row = served_row(task.name, "group" if task.members else task.media, refusal)
        rows.append({**row, "notes": "" if refusal else task.notes})
    rows = [row for row in rows if pattern == "all" or fnmatchcase(row["name"], pattern)]
    if not rows:
        raise benchmarks.TaskError(f"no task is like {pattern}; `prunebench list tasks=all`")
    return rows


def served_row(name: str, kind: str, refusal: str) -> Row:
    """A task, and why it cannot be served; empty where it can."""
    served = "no" if refusal else "yes"
    return {"name": name, "kind": kind, "served": served, "why not": refusal, "notes": ""}


def public_line() -> str:
    """How many tasks lmms-eval has beside the listed ones."""
    from prunebench import benchmarks

    lacking = benchmarks.judge.missing()
    try:
        public = benchmarks.public_tasks()
    except benchmarks.TaskError as error:  # without lmms-eval the built-in ones are still there
        return message(error)
    tasks = [task for task in public.values() if not task.members]
    count = sum(not task.why_not(lacking) for task in tasks)
    return (
        f"and {count:,} of the {len(tasks):,} tasks of lmms-eval; `list tasks=all` shows them, "
        "`list tasks=mme` those with mme in their name, and why others are not served"
    )


def reasons() -> list[Row]:
    """A row a method, a column a family: "ok", or why not, in full."""
    from prunebench.testing import matrix

    rows: dict[str, Row] = {}
    for place in matrix.matrix():
        row = rows.setdefault(place.method, {"method": place.method})
        row[place.family] = place.reason or "ok"
    return list(rows.values())


def grouped(rows: list[dict[str, str]]) -> list[Row]:
    """The matrix in three columns, for where the families do not fit side by side."""
    narrow = []
    for row in rows:
        runs: list[str] = []
        refused: dict[str, list[str]] = {}
        for family, place in row.items():
            if place == "ok":
                runs.append(family)
            elif family != "method":
                refused.setdefault(place, []).append(family)
        groups = [f"{note} {', '.join(families)}" for note, families in refused.items()]
        narrow.append(
            {"method": row["method"], "runs on": ", ".join(runs), "not on": "; ".join(groups)}
        )
    return narrow


LISTS: dict[str, Callable[[], list[Row]]] = {
    "models": model_rows,
    "methods": method_rows,
    "tasks": task_rows,
}
"""What can be listed."""
