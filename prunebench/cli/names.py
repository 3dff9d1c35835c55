"""Names: what can be named on the command line, read from files without importing what they name.

Importing a family or a method brings torch and transformers, which takes seconds; a shell that
completes a word, and `list models`, want the names at once. The tests hold these names equal to
those that the registries give.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from prunebench.testbed import MODELS

TITLE = re.compile(r"^(?:task|group): *(\S+)", re.MULTILINE)
"""The line of a task's file, or of a suite's, that names it."""


def methods() -> list[str]:
    """The built-in methods, sorted: the stems of their files."""
    files = folder_of("prunebench.methods").glob("[!_]*.py")
    return sorted(file.stem for file in files)


def addons() -> list[str]:
    """The built-in add-ons, sorted, in the same way."""
    files = (folder_of("prunebench.methods") / "addons").glob("[!_]*.py")
    return sorted(file.stem for file in files)


def models() -> dict[str, str]:
    """Every short name with its folder in the package or its id on the hub."""
    names = {name: str(path) for name, path in MODELS.items()}
    for file in sorted(folder_of("prunebench.models").glob("[!_]*.py")):
        for aliases in literal_aliases(file):
            names.update(aliases)
    return names


def tasks() -> list[str]:
    """The built-in tasks, then the suites."""
    folder = folder_of("prunebench.tasks")
    suites = sorted((folder / "suites").glob("*.yaml"))
    files = [file for file in sorted(folder.rglob("[!_]*.yaml")) if file not in suites]
    files += suites
    titles = [TITLE.search(file.read_text(encoding="utf-8")) for file in files]
    return [title[1] for title in titles if title is not None]


def literal_aliases(file: Path) -> Iterator[dict[str, str]]:
    """The `aliases` that the classes of a file are given, as they are written there."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    for node in classes:
        for statement in node.body:
            if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "aliases":
                yield ast.literal_eval(statement.value)


def folder_of(package: str) -> Path:
    """Where a package's files lie; the package itself is not imported."""
    spec = find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(next(iter(spec.submodule_search_locations)))
