"""Options: key=value texts and YAML mappings as OmegaConf structured configurations; whatever is unknown is refused."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from prunebench.registry import suggest

T = TypeVar("T")
Settings = dict[str, dict[str, Any]]
"""Settings of methods, "fastv.layer=3", by label."""


class OptionError(ValueError):
    """An option that is unknown, or has a value it cannot have."""


def keys(kind: type) -> list[str]:
    """The options of a structured configuration."""
    return [f.name for f in fields(kind)]


def override(given: dict[str, Any], texts: Iterable[str], kind: type, lists: Iterable[str] = ()) -> Settings:
    """Put key=value texts into `given`; what belongs to no key of `kind` but has a dot comes back as settings."""
    settings: Settings = {}
    for text in texts:
        key, value = _split(text, lists)
        head, _, tail = key.partition(".")
        if tail and head not in keys(kind):
            settings.setdefault(head, {})[tail] = value
        elif tail:
            section = given.setdefault(head, {})
            if not isinstance(section, dict):
                raise OptionError(f"{head} has no part {tail!r}; write {head}=value")
            section[tail] = value
        else:
            given[key] = value
    return settings


def structured(kind: type[T], given: Mapping[str, Any]) -> T:
    """`given` as a `kind`; raises OptionError for an unknown key, with the nearest known one, and for a wrong type."""
    known(given, kind)
    try:
        made = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), OmegaConf.create(dict(given))))
    except OmegaConfBaseException as error:
        key = str(getattr(error, "full_key", None) or "a value")
        raise OptionError(f"{key} is {short(_at(given, key))}: {str(error).splitlines()[0]}") from None
    assert isinstance(made, kind)
    return made


def known(given: Mapping[str, Any], kind: type, prefix: str = "") -> None:
    """Refuse keys that `kind` and its sections do not have."""
    parts = {f.name: f.default_factory for f in fields(kind)}
    for key, value in given.items():
        if key not in parts:
            raise OptionError(f"unknown key {prefix}{key}{suggest(str(key), parts)}")
        if isinstance(value, Mapping) and is_dataclass(parts[key]):
            known(value, parts[key], f"{prefix}{key}.")  # type: ignore[arg-type]  # a section's factory is its class


def short(value: Any) -> str:
    """A value for a message."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 80 else text[:77] + "..."


def _split(text: str, lists: Iterable[str]) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise OptionError(f"{text!r} is no option; write key=value, such as budgets=0.25,0.1")
    if key in lists and not value.lstrip().startswith("["):
        return key, [part.strip() for part in value.split(",") if part.strip()]
    try:
        return key, yaml.safe_load(value) if value else None
    except yaml.YAMLError:
        return key, value


def _at(given: Any, key: str) -> Any:
    for part in key.split("."):
        given = given.get(part) if isinstance(given, Mapping) else given
    return given
