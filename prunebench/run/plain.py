"""Plain: YAML read as plain data within bounds; nothing in it is resolved, imported or expanded
without end.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import yaml

from prunebench.border.text import clean, message, one_line

MOST_CHARACTERS = 100_000
MOST_VALUES = 10_000
"""Values in one text, those that aliases repeat counted each time."""

DEEPEST = 20
LONGEST = 2_000
"""Characters of one text, or of one key."""

MOST = 2**63 - 1
"""The largest whole number: what a file, a seed or a table can hold."""

INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9_]*)$")
FLOAT = re.compile(
    r"[-+]?(?:[0-9][0-9_]*)?\.[0-9_]+(?:[eE][-+]?[0-9]+)?$|[-+]?[0-9][0-9_]*\.(?:[eE][-+]?[0-9]+)?$"
    r"|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+$|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$"
)

TAG = "tag:yaml.org,2002:"
ALLOWED = {
    yaml.ScalarNode: tuple(TAG + name for name in ("null", "bool", "int", "float", "str")),
    yaml.SequenceNode: (TAG + "seq",),
    yaml.MappingNode: (TAG + "map",),
}


class PlainError(ValueError):
    """A text that is no YAML, or more than plain data within bounds."""


def read(text: str) -> Any:
    """What a YAML text of a user holds, checked; raises PlainError in one line that says where."""
    content = parse(text)
    check(content)
    return content


def parse(text: str) -> Any:
    """What a YAML text holds: None, true and false, numbers, texts, lists, and mappings with texts
    as keys.

    Raises PlainError, in one line that says where, for anything else.
    """
    if len(text) > MOST_CHARACTERS:
        raise PlainError(f"it has {len(text)} characters; the most is {MOST_CHARACTERS}")
    try:
        _measure(text)
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise PlainError(_place(error)) from None


def dump(content: Any) -> str:
    """Plain data as YAML that `parse` reads back to the same."""
    return str(yaml.dump(content, Dumper=_Dumper, sort_keys=False))


def check(value: Any, place: str = "") -> None:
    """Refuse plain data that holds a text or a number no grid can use; raises PlainError, which
    names the place.
    """
    for where, part in _parts(value, place):
        if isinstance(part, str):
            _check_text(where or "it", part)
        elif isinstance(part, bool) or part is None:
            continue
        elif isinstance(part, int) and not -MOST <= part <= MOST:
            raise PlainError(
                f"{where or 'it'} is a whole number of {_digits(part)}; the largest is 2^63 - 1"
            )
        elif isinstance(part, float) and not math.isfinite(part):
            raise PlainError(f"{where or 'it'} is {part}; write a finite number")


def storable(value: Any, depth: int = 0) -> Any:
    """A value as plain data; what is none, such as a tensor or a NaN, becomes its text."""
    if value is None or isinstance(value, bool):
        return value
    if type(value) is int or (type(value) is float and math.isfinite(value)):
        return value
    if isinstance(value, str):
        return str(value)
    if depth < DEEPEST and isinstance(value, list | tuple):
        return [storable(part, depth + 1) for part in value]
    if (
        depth < DEEPEST
        and isinstance(value, Mapping)
        and all(isinstance(key, str) for key in value)
    ):
        return {str(key): storable(part, depth + 1) for key, part in value.items()}
    return shown(value)


def short(value: Any, limit: int = 60) -> str:
    """A value for a message, on one line of at most `limit` characters."""
    return one_line(shown(value), limit)


def shown(value: Any) -> str:
    """What a value is, in one line."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    try:
        if isinstance(value, list | dict):
            with suppress(TypeError, ValueError):
                return one_line(json.dumps(value, ensure_ascii=False))
        return one_line(repr(value))
    except Exception as error:  # a plug-in's value may fail to say what it is
        return f"a {type(value).__name__}, which cannot be shown ({type(error).__name__})"


def _check_text(where: str, text: str) -> None:
    if len(text) > LONGEST:
        raise PlainError(
            f"{where} has {len(text)} characters ({short(text, 30)}); the most is {LONGEST}"
        )
    if clean(text) != text:
        raise PlainError(
            f"{where} is {short(text)}, with a character that is no printable text; leave it out"
        )
    if "${" in text or text == "???":
        raise PlainError(
            f"{where} is {short(text)}; nothing is filled in here, so write the value itself"
        )


def _parts(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Every key and value in nested plain data with its place, such as methods[0].label."""
    yield place, value
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield f"a key of {place}" if place else "a key", key
            yield from _parts(part, f"{place}.{short_key(key)}" if place else short_key(key))
    elif isinstance(value, list | tuple):
        for number, part in enumerate(value):
            yield from _parts(part, f"{place}[{number}]")


def short_key(key: Any) -> str:
    """A key for a message, without quotes."""
    return one_line(str(key), 40)


def _digits(number: int) -> str:
    """Roughly how long a number is; an exact count would need its text, which Python limits."""
    return f"about {int(abs(number).bit_length() * math.log10(2)) + 1} digits"


def _measure(text: str) -> None:
    """Refuse, before anything is built, what nests too deep, holds itself, or is too much once its
    aliases are expanded.
    """
    ready: dict[str, tuple[int, int]] = {}  # values and depth of every anchored part that has ended
    waiting: list[_Part] = [_Part(None)]
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in ready and any(part.anchor == event.anchor for part in waiting):
                raise PlainError(
                    f"*{short_key(event.anchor)} stands inside what it repeats; write the value out"
                )
            waiting[-1].add(*ready.get(event.anchor, (1, 1)))
        elif isinstance(event, yaml.ScalarEvent):
            if event.anchor:
                ready[event.anchor] = 1, 1
            waiting[-1].add(1, 1)
        elif isinstance(event, yaml.CollectionStartEvent):
            waiting.append(_Part(event.anchor))
        elif isinstance(event, yaml.CollectionEndEvent):
            part = waiting.pop()
            if part.anchor:
                ready[part.anchor] = part.values, part.depth
            waiting[-1].add(part.values, part.depth)
        if len(waiting) + waiting[-1].depth > DEEPEST + 2:
            raise PlainError(f"it nests more than {DEEPEST} levels deep")
        if waiting[-1].values > MOST_VALUES:
            raise PlainError(
                f"it holds more than {MOST_VALUES} values, those that aliases repeat included"
            )


class _Part:
    """A list or mapping being read: its anchor, how many values it holds, and how deep they nest."""

    def __init__(self, anchor: str | None) -> None:
        self.anchor = anchor
        self.values = self.depth = 1

    def add(self, values: int, depth: int) -> None:
        self.values += values
        self.depth = max(self.depth, depth + 1)


def _place(error: yaml.YAMLError) -> str:
    """Where YAML does not hold, and why."""
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or message(error)
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    line = f"line {mark.line + 1}: " if mark is not None else ""
    return f"{line}{one_line(str(problem), 150)}"


def _resolvers(
    classes: Mapping[str | None, list[tuple[str, Any]]],
) -> dict[str | None, list[tuple[str, Any]]]:
    """PyYAML's rules for what an unquoted word is, without dates, octal and base-60 numbers, and
    with 1e-4 a number.
    """
    kept = (TAG + "bool", TAG + "null", TAG + "merge")
    rules = {first: [rule for rule in rules if rule[0] in kept] for first, rules in classes.items()}
    for first in "-+0123456789":
        rules.setdefault(first, []).append((TAG + "int", INTEGER))
    for first in "-+0123456789.":
        rules.setdefault(first, []).append((TAG + "float", FLOAT))
    return rules


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]  # yaml is untyped
    yaml_implicit_resolvers = _resolvers(yaml.SafeDumper.yaml_implicit_resolvers)

    def ignore_aliases(self, data: Any) -> bool:
        return True


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # as above
    """SafeLoader for plain data alone: every key a text that stands once, no tag but those of
    JSON's types.
    """

    yaml_implicit_resolvers = _resolvers(yaml.SafeLoader.yaml_implicit_resolvers)

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        if node.tag not in ALLOWED[type(node)]:
            said = f"the tag !!{short_key(node.tag.removeprefix(TAG))} makes no plain value; leave it out"
            raise yaml.constructor.ConstructorError(None, None, said, node.start_mark)
        try:
            return super().construct_object(node, deep)
        except (ValueError, KeyError, OverflowError):
            word = node.tag.removeprefix(TAG)
            said = f"{short(node.value, 40)} is no {word}"
            raise yaml.constructor.ConstructorError(None, None, said, node.start_mark) from None

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = set()
        for key, _ in node.value:
            if key.tag == TAG + "merge":
                continue
            if key.tag != TAG + "str":
                what = (
                    short_key(key.value)
                    if isinstance(key, yaml.ScalarNode)
                    else "that is a list or mapping"
                )
                said = f"the key {what} is no text; put it in quotes"
                raise yaml.constructor.ConstructorError(None, None, said, key.start_mark)
            if key.value in keys:
                said = f"the key {short(key.value, 40)} stands twice; leave one out"
                raise yaml.constructor.ConstructorError(None, None, said, key.start_mark)
            keys.add(key.value)
        return super().construct_mapping(node, deep)
