"""Keys: what can be set in a configuration, each with its type, default, meaning and bounds.

All of that stands once, at the fields of a dataclass; the checks, the help of the command line and
the documentation read it there.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from prunebench.border.bounds import KEY as BOUND
from prunebench.border.bounds import Bound
from prunebench.run.plain import short, shown

TAKES = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    list: "a list",
    dict: "a mapping",
}
"""What a key of a type takes, in words."""

MEANING = "meaning"
"""Where a field's metadata hold what the key is for."""


class GridError(ValueError):
    """A grid that asks for something unknown or impossible."""


@dataclass(frozen=True)
class Key:
    """One key in words, for a help page.

    `name` is dotted where the key is part of a section; `default` is what one would write to get
    it, and `example` a whole option of the command line, such as "seed=1". `choices` are its only
    values, empty where there are many.
    """

    name: str
    type: str
    default: str
    what: str
    example: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Meaning:
    """What a key is for, in one sentence, and a value to show, as an option of the command line."""

    what: str
    example: str


def key(default: Any, what: str, example: str, bound: Bound | None = None) -> Any:
    """The field of a key; every configuration gets a list of its own where the default is one."""
    metadata = {MEANING: Meaning(what, example), BOUND: bound}
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


def keys_of(kind: type, section: str = "") -> list[Key]:
    """Every key of a configuration in words, those of its sections included."""
    hints = get_type_hints(kind)
    keys: list[Key] = []
    for one in fields(kind):
        name = f"{section}{one.name}"
        hint = hints[one.name]
        if is_dataclass(hint):
            keys += keys_of(hint, f"{name}.")  # type: ignore[arg-type]  # a class, not an instance
            continue
        meaning: Meaning = one.metadata[MEANING]
        default = one.default if one.default_factory is MISSING else one.default_factory()
        bound: Bound | None = one.metadata[BOUND]
        words = (_type(hint, bound), _written(default), meaning.what, meaning.example)
        keys.append(Key(name, *words, choices_of(hint, bound)))
    return keys


def check_values(settings: Any, section: str = "") -> None:
    """Refuse a number or a word that is not among those its key can have; raises GridError."""
    for one in fields(settings):
        name = f"{section}{one.name}"
        value = getattr(settings, one.name)
        if is_dataclass(value):
            check_values(value, f"{name}.")
            continue
        bound: Bound | None = one.metadata[BOUND]
        if bound is None or value is None:
            continue
        if bound.choices and value not in bound.choices:
            raise GridError(f"{name} is {short(value)}; it is {bound}")
        if bound.least is not None and value < bound.least:
            raise GridError(f"{name} is {value}; it starts at {bound.least}")
        if bound.most is not None and value > bound.most:
            raise GridError(f"{name} is {value}; it ends at {bound.most}")


def choices_of(hint: Any, bound: Bound | None) -> tuple[str, ...]:
    """The only values of a key of that type, as one types them; empty where there are many."""
    if plainest(hint) is bool:
        return ("true", "false")
    return () if bound is None else bound.choices


def hint_of(kind: Any, name: str) -> Any:
    """The declared type of a key, Any for one that is not declared."""
    return get_type_hints(kind).get(name, Any) if is_dataclass(kind) else Any


def optional(hint: Any) -> bool:
    """Whether a key of that type can be null."""
    return NoneType in get_args(hint)


def plainest(hint: Any) -> Any:
    """The type behind `X | None`, list[X] or dict[X, Y]."""
    kinds = [kind for kind in get_args(hint) if kind is not NoneType]
    if optional(hint) and len(kinds) == 1:
        return plainest(kinds[0])
    return get_origin(hint) or hint


def _type(hint: Any, bound: Bound | None) -> str:
    """What a key takes, in words."""
    words = str(bound) if bound is not None and bound.choices else TAKES[plainest(hint)]
    return f"{words}, or null" if optional(hint) else words


def _written(default: Any) -> str:
    """A default as it is written on the command line."""
    if isinstance(default, list):
        return ",".join(str(value) for value in default)
    return default if isinstance(default, str) else shown(default)
