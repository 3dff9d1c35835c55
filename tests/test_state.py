"""Whatever an object of the engine holds, it holds from its beginning: read off the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ENGINE = Path(__file__).parents[1] / "prunebench" / "engine"


def declared(kind: ast.ClassDef) -> set[str]:
    """The attributes that a class names in its body or sets in `__init__`."""
    names = {
        statement.target.id
        for statement in kind.body
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
    }
    for method in methods(kind):
        if method.name == "__init__":
            names |= {name for name, _ in assigned(method)}
    return names


def methods(kind: ast.ClassDef) -> list[ast.FunctionDef]:
    return [statement for statement in kind.body if isinstance(statement, ast.FunctionDef)]


def assigned(method: ast.FunctionDef) -> Iterator[tuple[str, int]]:
    """Every attribute of self that a method sets, with its line."""
    for node in ast.walk(method):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and isinstance(node.value, ast.Name)
            and node.value.id == "self"
        ):
            yield node.attr, node.lineno


def late_attributes(text: str) -> list[str]:
    """`Class.attribute` for every attribute that appears outside `__init__`."""
    late = []
    for kind in ast.walk(ast.parse(text)):
        if isinstance(kind, ast.ClassDef):
            names = declared(kind)
            for method in methods(kind):
                late += [f"{kind.name}.{name}" for name, _ in assigned(method) if name not in names]
    return late


@pytest.mark.parametrize("path", sorted(ENGINE.glob("*.py")), ids=lambda path: path.stem)
def test_no_attribute_appears_outside_init(path: Path) -> None:
    assert late_attributes(path.read_text()) == []


def test_a_late_attribute_would_be_seen() -> None:
    source = (
        "class Late:\n    def __init__(self): self.early = 1\n    def go(self): self.late = 2\n"
    )
    assert late_attributes(source) == ["Late.late"]
