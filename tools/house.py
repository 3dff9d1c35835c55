"""House rules that ruff does not hold: python tools/house.py [FILE or FOLDER ...]; exits 1 where
one is broken.

A comprehension has one `for` and at most one `if`, holds no other comprehension and no conditional
expression. A conditional expression holds no other. A name says what thing it is: a bare participle
(`found`, `given`, `told`) only says that something happened.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("prunebench", "methods", "tasks", "tools")

COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
PARTICIPLES = frozenset(
    [
        "asked",
        "begun",
        "brought",
        "built",
        "called",
        "chosen",
        "done",
        "drawn",
        "fed",
        "found",
        "given",
        "gone",
        "got",
        "heard",
        "held",
        "known",
        "learnt",
        "made",
        "met",
        "put",
        "read",
        "said",
        "seen",
        "sent",
        "shown",
        "spoken",
        "spread",
        "taken",
        "told",
        "thought",
        "tried",
        "wanted",
        "watched",
        "went",
        "written",
    ]
)

Fault = tuple[int, str]
"""The line where a rule is broken, and which one."""


def faults(tree: ast.Module) -> Iterator[Fault]:
    """Every place of a file where a rule is broken."""
    for node in ast.walk(tree):
        if isinstance(node, COMPREHENSIONS):
            yield from comprehension_faults(node)
        if isinstance(node, ast.IfExp) and holds(node, ast.IfExp):
            yield node.lineno, "a conditional expression inside another"
        name = bound_name(node)
        if name in PARTICIPLES:
            yield getattr(node, "lineno", 0), f"{name!r} names no thing; add the noun"


def comprehension_faults(node: ast.AST) -> Iterator[Fault]:
    """What is wrong with one comprehension."""
    line = getattr(node, "lineno", 0)
    loops = getattr(node, "generators", [])
    if len(loops) > 1:
        yield line, "a comprehension with more than one `for`"
    if any(len(loop.ifs) > 1 for loop in loops):
        yield line, "a comprehension with more than one `if`"
    if holds(node, COMPREHENSIONS):
        yield line, "a comprehension inside another"
    if holds(node, ast.IfExp):
        yield line, "a conditional expression inside a comprehension"


def holds(node: ast.AST, kind: type[ast.AST] | tuple[type[ast.AST], ...]) -> bool:
    """Whether a node of that kind lies anywhere inside `node`."""
    inside = ast.walk(node)
    next(inside)  # the node itself
    return any(isinstance(part, kind) for part in inside)


def bound_name(node: ast.AST) -> str | None:
    """The local variable or argument that a node brings into being; None for any other node."""
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        return node.id
    if isinstance(node, ast.arg):
        return node.arg
    return None


def main(arguments: list[str]) -> int:
    """Print every fault of the files, those of the whole house where none is named."""
    places = [Path(argument) for argument in arguments] or [ROOT / name for name in FOLDERS]
    count = 0
    for place in places:
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            for line, what in faults(ast.parse(path.read_text())):
                print(f"{path}:{line}: {what}")
                count += 1
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
