"""Facts: the plain JSON that files of a study hold, and what each fact in it may be.

A record is a frozen dataclass. The annotation of a field says what the fact is: `Name`, `Count`,
`Number | None`, a `Literal` of words. `read` derives the checks from that, so that a fact is
declared once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from prunebench.border.text import one_line

LARGEST = 1e300
"""What is beyond it is no measurement, and would overflow in a mean."""

ATOMS = frozenset({type(None), bool, float})
"""Types whose values JSON holds and gives back as they are."""

MOST = 2**53
"""The largest count: above it a float no longer tells neighbours apart."""

MOST_BITS = 256
"""Of a whole number that is only kept, such as a setting; longer ones are written as hexadecimal
text.
"""


SEAM = re.compile(r"vision:\d{1,4}")
"""Of the vision encoder, by the block that it lies before."""


class Damaged(ValueError):
    """A file of a study that is not what the program wrote."""


@dataclass(frozen=True)
class Rule:
    """What a fact is: the words that an error message has for it, and the test that it passes."""

    what: str
    holds: Callable[[Any], bool]


# ---- the tests -----------------------------------------------------------------------------------


def is_text(value: Any) -> bool:
    """Any text, the empty one included."""
    return isinstance(value, str)


def is_name(value: Any) -> bool:
    """A text that is not empty."""
    return isinstance(value, str) and value != ""


def is_number(value: Any) -> bool:
    """A finite number that a mean can take; true and false are none."""
    if type(value) is float:  # as nearly all are
        return -LARGEST <= value <= LARGEST
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    # a comparison that is false for NaN, too
    return bool(-LARGEST <= value <= LARGEST)


def is_whole(value: Any) -> bool:
    """A whole number of either sign."""
    if isinstance(value, bool) or not isinstance(value, int):
        return False
    return bool(abs(value) <= 2**MOST_BITS)


def is_count(value: Any) -> bool:
    """A whole number from zero on."""
    return is_whole(value) and bool(0 <= value <= MOST)


def is_budget(value: Any) -> bool:
    """A share, a count, or the name of a budget that is a method's own."""
    if not is_name(value):
        return False
    try:
        return 0 <= float(value) <= LARGEST
    except ValueError:
        return True


def is_digests(value: Any) -> bool:
    """A mapping of file names to the digests of their contents."""
    return isinstance(value, dict) and all(map(is_text, value.values()))


def is_amounts(value: Any) -> bool:
    """A list of numbers from zero on, one at least."""
    if not isinstance(value, list) or not value:
        return False
    return all(is_number(part) and part >= 0 for part in value)


def is_seams(value: Any) -> bool:
    """A mapping of seams of the vision encoder to such numbers."""
    if not isinstance(value, dict) or not all(map(SEAM.fullmatch, value)):
        return False
    return is_amounts(list(value.values()))


Text = Annotated[str, Rule("a text", is_text)]
Name = Annotated[str, Rule("a name", is_name)]
Truth = Annotated[bool, Rule("true or false", lambda value: isinstance(value, bool))]
Number = Annotated[float, Rule("a number", is_number)]
Count = Annotated[int, Rule("a count", is_count)]
Whole = Annotated[int, Rule("a whole number", is_whole)]
Budget = Annotated[str, Rule("a budget", is_budget)]
Plain = Annotated[dict[str, Any], Rule("a mapping", lambda value: isinstance(value, dict))]
Digests = Annotated[dict[str, str], Rule("a mapping of names to digests", is_digests)]
Amounts = Annotated[list[float], Rule("a list of numbers from zero on", is_amounts)]
Seams = Annotated[dict[str, float], Rule("a mapping of vision:N to numbers", is_seams)]


# ---- checks, derived -----------------------------------------------------------------------------


@cache
def rules(record: type) -> Mapping[str, Rule]:
    """The rule of every field whose annotation has one.

    A fact of a few words is checked as a text here and as a word by `check_words`, for what is
    wrong with a list in its place is another thing than an unknown word.
    """
    declared = {}
    for name, hint in get_type_hints(record, include_extras=True).items():
        rule = _rule(hint)
        if rule is not None:
            declared[name] = rule
    return declared


@cache
def words(record: type) -> Mapping[str, tuple[str, ...]]:
    """The words of every field that is one of a few."""
    choices = {}
    for name, hint in get_type_hints(record).items():
        if get_origin(hint) is Literal:
            choices[name] = get_args(hint)
    return choices


@cache
def names(record: type) -> tuple[str, ...]:
    """The fields of a record."""
    return tuple(field.name for field in fields(record))


def check_present(record: type, facts: Mapping[str, Any], where: str) -> None:
    """That every fact without a default is there; raises Damaged that names those that are not."""
    missing = []
    for field in fields(record):
        required = field.default is MISSING and field.default_factory is MISSING
        if required and facts.get(field.name) is None:
            missing.append(field.name)
    if missing:
        raise Damaged(f"{where} lacks {', '.join(missing)}")


def check_rules(record: type, facts: Mapping[str, Any], where: str) -> None:
    """That every fact that is there is what it should be; raises Damaged that names the first that
    is not. `where` begins the message, such as "cell.json has ".
    """
    # null stands for what is absent; whether that may be is `check_present`'s question
    for name, rule in rules(record).items():
        value = facts.get(name)
        if value is not None and not rule.holds(value):
            raise Damaged(f"{where}{name} {short(value)} where {rule.what} belongs")


def check_words(record: type, facts: Mapping[str, Any]) -> None:
    """That every fact that is one of a few words is one of them; raises Damaged."""
    for name, choices in words(record).items():
        if facts[name] not in choices:
            listed = ", ".join(choices)
            raise Damaged(f"{name} {short(facts[name])} is unknown; it is one of {listed}")


def present(record: type, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts that a record takes; one that is absent or null has its default."""
    values = {}
    for name in names(record):
        value = facts.get(name)
        if value is not None:
            values[name] = value
    return values


def _rule(hint: Any) -> Rule | None:
    """The rule in an annotation, `X | None` included; a text where it is a Literal."""
    origin = get_origin(hint)
    if origin is Annotated:
        return next((part for part in get_args(hint) if isinstance(part, Rule)), None)
    if origin is Literal:
        return Rule("a text", is_text)
    if origin in (Union, UnionType):
        inner = map(_rule, get_args(hint))
        return next((rule for rule in inner if rule is not None), None)
    return None


# ---- plain values --------------------------------------------------------------------------------


def plain(value: Any, depth: int = 32) -> Any:
    """A value as JSON can hold it and give it back: lone surrogates escaped, objects by their text,
    nesting to `depth`.

    NaN and infinity stay what they are, so that the checks find them.
    """
    # nearly all values are one of these, and a study has thousands
    if type(value) in ATOMS or (type(value) is str and value.isascii()):
        return value
    # bool ahead of int, which it is as well; `is_whole` would refuse it
    if isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if is_whole(value) else f"{value:#x}"
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if depth > 0 and isinstance(value, Mapping):
        content = {}
        for key, part in value.items():
            # not asked of most values: a study's rows have hundred thousands
            content[plain(str(key))] = part if type(part) in ATOMS else plain(part, depth - 1)
        return content
    if depth > 0 and isinstance(value, list | tuple):
        return [plain(part, depth - 1) for part in value]
    try:
        return one_line(repr(value))
    except Exception:  # an object of a plug-in's
        return f"a {type(value).__name__} whose text cannot be shown"


def to_json(value: Any, indent: int | None = None) -> str:
    """The text of a plain value, as every file of a study has it."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def from_json(data: bytes, file: str) -> dict[str, Any]:
    """The mapping that a file holds; raises Damaged that begins with the file's name."""
    try:
        content = json.loads(data.decode("utf-8"), object_pairs_hook=_without_twins)
    except _Twice as error:
        raise Damaged(f"{file} cannot be read: {error}") from None
    except (ValueError, RecursionError) as error:
        detail = one_line(str(error), 100)
        raise Damaged(f"{file} cannot be read: {type(error).__name__}: {detail}") from None
    if not isinstance(content, dict):
        raise Damaged(f"{file} cannot be read: it holds no object")
    return content


def short(value: Any) -> str:
    """A value of others for a message; a container by its type, for its text may be endless."""
    if isinstance(value, dict | list):
        return f"a {'mapping' if isinstance(value, dict) else 'list'} of {len(value)}"
    if isinstance(value, int) and abs(value) > MOST:
        return "a huge number"
    return one_line(repr(value), 60)


class _Twice(ValueError):
    """A key that stands in an object twice."""


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys differ; of one that stands twice, readers disagree what it is."""
    content = dict(pairs)
    if len(content) < len(pairs):
        names_seen: set[str] = set()
        for key, _ in pairs:
            if key in names_seen:
                raise _Twice(f"key {short(key)} stands in it twice")
            names_seen.add(key)
    return content
