"""Options: key=value texts and YAML mappings as OmegaConf structured configurations; whatever is
unknown is refused.

OmegaConf checks the types. What it would fill in, ${...} and ???, is refused before it sees it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, is_dataclass
from types import NoneType
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from prunebench.border.text import one_line
from prunebench.run import plain
from prunebench.run.keys import TAKES, hint_of, optional, plainest
from prunebench.run.plain import PlainError, short, short_key

T = TypeVar("T")
Settings = dict[str, dict[str, Any]]
"""Settings of methods, "fastv.layer=3", by label."""

MOST_OPTIONS = 1_000


class OptionError(ValueError):
    """An option that is unknown, or has a value it cannot have."""


def keys(kind: type) -> list[str]:
    """The options of a structured configuration."""
    return [one.name for one in fields(kind)]


def override(
    content: dict[str, Any], texts: Iterable[str], kind: type, lists: Iterable[str] = ()
) -> Settings:
    """Put key=value texts into `content`; settings of methods come back by label.

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
        section, dot, part = key.partition(".")
        if dot and part and section not in keys(kind):
            label, _, setting = key.rpartition(".")  # a label may have dots, a setting has none
            settings.setdefault(label, {})[setting] = _value(key, word, Any)
        elif part:
            _set_part(content, kind, section, part, word)
        elif key in lists and not word.lstrip().startswith("["):
            names = [name.strip() for name in word.split(",")]
            content[key] = [_value(key, name, str) for name in names if name]
        else:
            content[key] = _value(key, word, hint_of(kind, key))
    return settings


def structured(kind: type[T], content: Mapping[str, Any]) -> T:
    """`content` as a `kind`; raises OptionError for an unknown key, with the nearest known one, and
    for a wrong type.
    """
    check_known(content, kind)
    try:
        plain.check(dict(content))
        merged = OmegaConf.merge(OmegaConf.structured(kind), OmegaConf.create(dict(content)))
        configuration = OmegaConf.to_object(merged)
    except PlainError as error:
        raise OptionError(str(error)) from None
    except (OmegaConfBaseException, TypeError) as error:
        key = str(getattr(error, "full_key", None) or "a value")
        raise OptionError(_misfit(key, content, kind, error)) from None
    assert isinstance(configuration, kind)
    try:
        # again, for a text such as "nan" has become a number
        plain.check(asdict(configuration))  # type: ignore[call-overload]
    except PlainError as error:
        raise OptionError(str(error)) from None
    return configuration


def filled(kind: type[T], words: Iterable[str]) -> T:
    """What key=value words say, as a `kind`; raises OptionError."""
    content: dict[str, Any] = {}
    override(content, words, kind)
    return structured(kind, content)


def check_known(content: Mapping[str, Any], kind: type, section: str = "") -> None:
    """Refuse keys that `kind` and its sections do not have, and values that OmegaConf would quietly
    change.
    """
    for key, value in content.items():
        place = f"{section}{short_key(key)}"
        if key not in keys(kind):
            # late: what it stands on brings torch, which a help page does without
            from prunebench.registry import suggest

            raise OptionError(f"unknown key {place}{suggest(str(key)[:100], keys(kind))}")
        hint = hint_of(kind, key)
        if is_dataclass(hint):
            if not isinstance(value, Mapping):
                # mypy takes it for an instance
                part = keys(hint)[0]  # type: ignore[arg-type]
                raise OptionError(
                    f"{place} is {short(value)}; it takes its parts, such as {place}.{part}=..."
                )
            check_known(value, hint, f"{place}.")  # type: ignore[arg-type]  # as above
        elif plainest(hint) is str and not isinstance(value, str | NoneType):
            raise OptionError(f"{place} is {short(value)}; it takes a text, so put it in quotes")
        elif plainest(hint) is bool and isinstance(value, int | float) and value not in (0, 1):
            # OmegaConf takes every other number for true
            raise OptionError(f"{place} is {short(value)}; it takes {TAKES[bool]}")


def _set_part(content: dict[str, Any], kind: type, section: str, part: str, word: str) -> None:
    """Put "cost.pairs=3" into its section."""
    values = content.setdefault(section, {})
    section_kind = hint_of(kind, section)
    if isinstance(values, bool) and hint_of(section_kind, "enabled") is bool:
        values = content[section] = {"enabled": values}  # "cost=false cost.pairs=3"
    if not isinstance(values, dict):
        raise OptionError(f"{section} has no part {short_key(part)!r}; write {section}=value")
    values[part] = _value(f"{section}.{part}", word, hint_of(section_kind, part))


def _value(key: str, word: str, hint: Any) -> Any:
    """What a word on the command line means for an option of that type; raises OptionError."""
    if plainest(hint) is str:
        return None if optional(hint) and word in ("", "null") else word
    if not word:
        return None
    try:
        return plain.parse(word)
    except PlainError as error:
        if plainest(hint) not in (list, dict):
            return word  # a text as it stands; where none fits, whoever checks the type says so
        raise OptionError(
            f"{short_key(key)} is {short(word)}, which cannot be read: {error}"
        ) from None


def _misfit(key: str, content: Mapping[str, Any], kind: type, error: Exception) -> str:
    """One line for a value of the wrong type."""
    hint: Any = kind
    value: Any = content
    for part in key.split("."):
        hint = hint_of(hint, part)
        value = value.get(part) if isinstance(value, Mapping) else value
    takes = TAKES.get(plainest(hint))
    if takes is None:
        return f"{short_key(key)} cannot be used: {one_line(str(error), 150)}"
    return f"{key} is {short(value)}; it takes {takes}"
