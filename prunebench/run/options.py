"""Options: key=value texts and YAML mappings as OmegaConf structured configurations; whatever is
unknown is refused.

OmegaConf checks the types. What it would fill in, ${...} and ???, is refused before it sees it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, is_dataclass
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from prunebench.border.text import one_line
from prunebench.registry import suggest
from prunebench.run import plain
from prunebench.run.plain import PlainError, short, short_key

T = TypeVar("T")
Settings = dict[str, dict[str, Any]]
"""Settings of methods, "fastv.layer=3", by label."""

MOST_OPTIONS = 1_000

TAKES = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    list: "a list",
    dict: "a mapping",
}


class OptionError(ValueError):
    """An option that is unknown, or has a value it cannot have."""


def keys(kind: type) -> list[str]:
    """The options of a structured configuration."""
    return [f.name for f in fields(kind)]


def override(
    given: dict[str, Any], texts: Iterable[str], kind: type, lists: Iterable[str] = ()
) -> Settings:
    """Put key=value texts into `given`; settings of methods come back by label.

    A text for a key of `kind` that takes text is taken as it stands, others are read as YAML; keys
    in `lists` take values with commas between. What belongs to no key of `kind` but has a dot is a
    setting, "label.setting=value".
    """
    settings: Settings = {}
    words = list(texts)
    if len(words) > MOST_OPTIONS:
        raise OptionError(
            f"{len(words)} options are given; the most is {MOST_OPTIONS}, so write a YAML file"
        )
    for text in words:
        key, equals, word = text.partition("=")
        if not equals or not key:
            raise OptionError(f"{short(text)} is no option; write key=value, such as seed=1")
        head, _, tail = key.partition(".")
        if tail and head not in keys(kind):
            head, _, tail = key.rpartition(".")  # a label may have dots, a setting has none
            settings.setdefault(head, {})[tail] = _value(key, word, Any)
        elif tail:
            section = given.setdefault(head, {})
            if isinstance(section, bool) and "enabled" in get_type_hints(_hint(kind, head)):
                section = given[head] = {"enabled": section}  # "cost=false cost.pairs=3"
            if not isinstance(section, dict):
                raise OptionError(f"{head} has no part {short_key(tail)!r}; write {head}=value")
            section[tail] = _value(key, word, _hint(_hint(kind, head), tail))
        elif key in lists and not word.lstrip().startswith("["):
            given[key] = [
                _value(key, part.strip(), str) for part in word.split(",") if part.strip()
            ]
        else:
            given[key] = _value(key, word, _hint(kind, key))
    return settings


def structured(kind: type[T], given: Mapping[str, Any]) -> T:
    """`given` as a `kind`; raises OptionError for an unknown key, with the nearest known one, and
    for a wrong type.
    """
    known(given, kind)
    try:
        plain.check(dict(given))
        made = OmegaConf.to_object(
            OmegaConf.merge(OmegaConf.structured(kind), OmegaConf.create(dict(given)))
        )
    except PlainError as error:
        raise OptionError(str(error)) from None
    except (OmegaConfBaseException, TypeError) as error:
        key = str(getattr(error, "full_key", None) or "a value")
        raise OptionError(_misfit(key, given, kind, error)) from None
    assert isinstance(made, kind)
    try:
        plain.check(asdict(made))  # type: ignore[call-overload]  # a text such as "nan" has become a number
    except PlainError as error:
        raise OptionError(str(error)) from None
    return made


def known(given: Mapping[str, Any], kind: type, prefix: str = "") -> None:
    """Refuse keys that `kind` and its sections do not have, and values that OmegaConf would quietly
    change.
    """
    for key, value in given.items():
        place = f"{prefix}{short_key(key)}"
        if key not in keys(kind):
            raise OptionError(f"unknown key {place}{suggest(str(key)[:100], keys(kind))}")
        hint = _hint(kind, key)
        if is_dataclass(hint):
            if not isinstance(value, Mapping):
                parts = f"{place}.{keys(hint)[0]}=..."  # type: ignore[arg-type]  # a class, not an instance
                raise OptionError(f"{place} is {short(value)}; it takes its parts, such as {parts}")
            known(value, hint, f"{place}.")  # type: ignore[arg-type]  # as above
        elif _plainest(hint) is str and not isinstance(value, str | NoneType):
            raise OptionError(f"{place} is {short(value)}; it takes a text, so put it in quotes")


def _value(key: str, word: str, hint: Any) -> Any:
    """What a word on the command line means for an option of that type; raises OptionError."""
    if _plainest(hint) is str:
        if NoneType in get_args(hint) and word in ("", "null"):
            return None
        return word
    if not word:
        return None
    try:
        return plain.parse(word)
    except PlainError as error:
        if _plainest(hint) not in (list, dict):
            return word  # a text as it stands; where none fits, whoever checks the type says so
        raise OptionError(
            f"{short_key(key)} is {short(word)}, which cannot be read: {error}"
        ) from None


def _hint(kind: Any, key: str) -> Any:
    """The declared type of an option, Any for one that is not declared."""
    return get_type_hints(kind).get(key, Any) if is_dataclass(kind) else Any


def _plainest(hint: Any) -> Any:
    """The type behind `X | None`, list[X] or dict[X, Y]."""
    options = [option for option in get_args(hint) if option is not NoneType]
    if NoneType in get_args(hint) and len(options) == 1:
        return _plainest(options[0])
    return get_origin(hint) or hint


def _misfit(key: str, given: Mapping[str, Any], kind: type, error: Exception) -> str:
    """One line for a value of the wrong type."""
    hint: Any = kind
    for part in key.split("."):
        hint = _hint(hint, part)
    takes = TAKES.get(_plainest(hint))
    if takes is None:
        return f"{short_key(key)} cannot be used: {one_line(str(error), 150)}"
    return f"{key} is {short(_at(given, key))}; it takes {takes}"


def _at(given: Any, key: str) -> Any:
    for part in key.split("."):
        given = given.get(part) if isinstance(given, Mapping) else given
    return given
