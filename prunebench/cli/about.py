"""About: what is known of the methods of a study, read from their files without importing them."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from prunebench.border.text import message, one_line
from prunebench.cli import listing, lists, names
from prunebench.study.cells import StoredCell

Facts = dict[str, Any]

DECLARED = ("paper", "code", "variant", "reconstruction")
"""What a method says of itself beside its code."""


def of_cells(records: Iterable[StoredCell]) -> dict[str, Facts]:
    """By label, what is known of every method of a study."""
    pruners: dict[str, str] = {}
    for cell in records:
        # old cells do not say what was behind a label
        pruners.setdefault(cell.method, cell.pruner or cell.method)
    rows = listing.kept_rows()
    return {label: _facts(pruner, rows) for label, pruner in pruners.items()}


def _facts(pruner: str, rows: Mapping[str, Facts]) -> Facts:
    """What the file of a method says, and how far it was checked; of several that work together
    what is known of each.
    """
    several = pruner.split("+")
    if len(several) > 1 and "/" not in pruner:
        parts = [_facts(part, rows) for part in several]
        texts = [f"{part.get('title', '')}: {part.get('idea', '')}" for part in parts]
        statuses = []
        for name, part in zip(several, parts, strict=True):
            statuses.append(f"{name}: {part.get('status', 'not known')}")
        return {"idea": " Then ".join(texts), "status": "; ".join(statuses)}
    path = _path(pruner)
    if path is None:
        return {"missing": f"{one_line(pruner, 80)} is none of the installed methods"}
    try:
        facts = read(path)
    except (OSError, ValueError, SyntaxError) as error:
        return {"missing": f"its file cannot be read: {one_line(message(error), 120)}"}
    row = _row(pruner if path.parent.name != "addons" else f"+{pruner}", rows)
    # the variant stands by itself
    status = str(row.get("status", "")).replace(f"variant: {facts.get('variant')}", "variant")
    return facts | {"status": status, "settings": row.get("settings", "")}


def _row(name: str, rows: Mapping[str, Facts]) -> Facts:
    """What `list methods` says; a method is imported only where nothing is kept of it."""
    if name in rows:
        return rows[name]
    try:
        return lists.method_row(name)
    except Exception as error:  # a file that somebody changed may raise anything
        return {"status": f"broken: {one_line(message(error), 120)}"}


def _path(pruner: str) -> Path | None:
    """The file of an installed method or add-on."""
    folder = names.folder_of("prunebench.methods")
    for file in (folder / f"{pruner}.py", folder / "addons" / f"{pruner}.py"):
        if "/" not in pruner and file.is_file():
            return file
    return None


def read(path: Path) -> Facts:
    """What stands in a method's file: its title and idea, what it declares, and what its class
    says, which names the defects of the official code that it knows; raises what parsing raises.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    sentence = " ".join((ast.get_docstring(tree) or "").split())
    title, _, idea = sentence.partition(": ")
    facts: Facts = {"title": title, "idea": idea}
    for node in tree.body:
        if not isinstance(node, ast.ClassDef):
            continue
        for decorator in node.decorator_list:
            if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "register":
                facts |= _declared(decorator)
                facts["notes"] = unwrapped(ast.get_docstring(node) or "")
    return facts


def unwrapped(text: str) -> str:
    """Prose whose lines go on until a paragraph or a point of a list begins."""
    lines: list[str] = []
    for line in text.splitlines():
        words = line.strip()
        goes_on = lines and lines[-1] and words and not words.startswith("- ")
        if goes_on:
            lines[-1] += f" {words}"
        else:
            lines.append(words)
    return "\n".join(lines)


def _declared(call: ast.Call) -> Facts:
    """The arguments of the decorator that are written out."""
    declared = {}
    for argument in call.keywords:
        if argument.arg in DECLARED:
            declared[str(argument.arg)] = ast.literal_eval(argument.value)
    return declared
