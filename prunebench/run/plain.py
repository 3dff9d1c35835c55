"""Plain: YAML read as plain data within bounds; nothing in it is resolved, imported or expanded
without end.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import yaml

from prunebench.border.text import clean, message, one_line

MOST_CHARACTERS = 100_000
MOST_VALUES = 10_000
"""Values in one text, those that aliases repeat counted each time."""

DEEPEST = 20
"""Levels of lists and mappings inside each other."""

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
"""What the names of YAML's own types begin with."""

Resolvers = dict[str | None, list[tuple[str, Any]]]

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
        name = where or "it"
        if isinstance(part, str):
            _check_text(name, part)
        elif isinstance(part, bool) or part is None:
            continue
        elif isinstance(part, int) and not -MOST <= part <= MOST:
            raise PlainError(
                f"{name} is a whole number of {_digits(part)}; the largest is 2^63 - 1"
            )
        elif isinstance(part, float) and not math.isfinite(part):
            raise PlainError(f"{name} is {part}; write a finite number")


def storable(value: Any, depth: int = 0) -> Any:
    """A value as plain data; what is none, such as a tensor or a NaN, becomes its text."""
    if value is None or isinstance(value, bool):
        return value
    # exact types: PyYAML cannot write a subclass, such as an enum or a float of numpy
    if type(value) is int:
        return value
    if type(value) is float and math.isfinite(value):
        return value
    if isinstance(value, str):
        return str(value)
    if depth == DEEPEST:
        return shown(value)
    if isinstance(value, list | tuple):
        return [storable(part, depth + 1) for part in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
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
        key_place = f"a key of {place}" if place else "a key"
        prefix = f"{place}." if place else ""
        for key, part in value.items():
            yield key_place, key
            yield from _parts(part, prefix + short_key(key))
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
    size = _Size()
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            size.repeat(event.anchor)
        elif isinstance(event, yaml.ScalarEvent):
            size.begin(event.anchor)
            size.end()
        elif isinstance(event, yaml.CollectionStartEvent):
            size.begin(event.anchor)
        elif isinstance(event, yaml.CollectionEndEvent):
            size.end()
        if size.depth > DEEPEST:
            raise PlainError(f"it nests more than {DEEPEST} levels deep")
        if size.values > MOST_VALUES:
            raise PlainError(
                f"it holds more than {MOST_VALUES} values, those that aliases repeat included"
            )


@dataclass
class _Part:
    """A value being read: its anchor, how many values it holds with itself, and how many levels
    they take.
    """

    anchor: str | None = None
    values: int = 1
    depth: int = 1


class _Size:
    """How large a text is so far, with every alias counted as what it repeats."""

    def __init__(self) -> None:
        self._open = [_Part()]  # the text itself, then what is being read, outermost first
        self._ended: dict[str, _Part] = {}  # by anchor

    @property
    def values(self) -> int:
        """Values of the innermost part that is being read."""
        return self._open[-1].values

    @property
    def depth(self) -> int:
        """Levels that are open, with those of the deepest part that has ended in the innermost."""
        # less the text itself, and the innermost part, which both terms count
        return len(self._open) + self._open[-1].depth - 2

    def begin(self, anchor: str | None) -> None:
        """A value begins."""
        self._open.append(_Part(anchor))

    def end(self) -> None:
        """The innermost value ends."""
        part = self._open.pop()
        if part.anchor:
            self._ended[part.anchor] = part
        self._add(part)

    def repeat(self, anchor: str) -> None:
        """An alias; raises PlainError where it stands inside what it repeats."""
        is_open = any(part.anchor == anchor for part in self._open)
        if is_open and anchor not in self._ended:
            raise PlainError(
                f"*{short_key(anchor)} stands inside what it repeats; write the value out"
            )
        # an anchor that nobody has set counts as one value; the loader refuses it
        self._add(self._ended.get(anchor, _Part()))

    def _add(self, part: _Part) -> None:
        whole = self._open[-1]
        whole.values += part.values
        whole.depth = max(whole.depth, part.depth + 1)


def _place(error: yaml.YAMLError) -> str:
    """Where YAML does not hold, and why."""
    problem = getattr(error, "problem", None)
    reason = getattr(error, "reason", None)
    text = one_line(str(problem or reason or message(error)), 150)
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    return text if mark is None else f"line {mark.line + 1}: {text}"


def _resolvers(classes: Resolvers) -> Resolvers:
    """PyYAML's rules for what an unquoted word is, without dates, octal and base-60 numbers, and
    with 1e-4 a number.

    Rules are listed by the first character of the word.
    """
    kept_tags = (TAG + "bool", TAG + "null", TAG + "merge")
    rules: Resolvers = {}
    for first, own in classes.items():
        rules[first] = [rule for rule in own if rule[0] in kept_tags]
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
        word = node.tag.removeprefix(TAG)
        if node.tag not in ALLOWED[type(node)]:
            raise _refusal(node, f"the tag !!{short_key(word)} makes no plain value; leave it out")
        try:
            return super().construct_object(node, deep)
        except (ValueError, KeyError, OverflowError):
            # an explicit tag may stand at any text: for "!!bool perhaps" PyYAML raises KeyError
            raise _refusal(node, f"{short(node.value, 40)} is no {word}") from None

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = set()
        for key, _ in node.value:
            # SafeLoader resolves "<<" below; keys that come from there may be overridden
            if key.tag == TAG + "merge":
                continue
            if key.tag != TAG + "str":
                what = "that is a list or mapping"
                if isinstance(key, yaml.ScalarNode):
                    what = short_key(key.value)
                raise _refusal(key, f"the key {what} is no text; put it in quotes")
            if key.value in keys:
                text = short(key.value, 40)
                raise _refusal(key, f"the key {text} stands twice; leave one out")
            keys.add(key.value)
        return super().construct_mapping(node, deep)


def _refusal(node: Any, problem: str) -> yaml.YAMLError:
    """What is wrong with a part of a text, and where it stands."""
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
