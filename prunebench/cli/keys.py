"""Keys: what a training command takes as key=value, read off the dataclass that checks it."""

from __future__ import annotations

from dataclasses import MISSING, Field, fields
from typing import Any, get_type_hints

from prunebench.border.bounds import KEY, Bound
from prunebench.run.keys import TAKES, Key, choices_of, plainest


def bounded_keys(kind: type) -> list[Key]:
    """The keys of an options dataclass whose fields may have bounds."""
    hints = get_type_hints(kind)
    return [bounded_key(option, hints[option.name]) for option in fields(kind)]


def bounded_key(option: Field[Any], hint: Any) -> Key:
    """One of them: what it takes is its bound, or else its type."""
    bound: Bound | None = option.metadata.get(KEY)
    takes = TAKES.get(plainest(hint), "a value") if bound is None else str(bound)
    return Key(option.name, takes, default_text(option), "", "", choices_of(hint, bound))


def default_text(option: Field[Any]) -> str:
    """An option's default as it is typed; empty where it has none."""
    value = option.default
    if value is MISSING or value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)
