"""Public: the configurations of public models, which the package brings along, each with where its
numbers come from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from prunebench.border.text import one_line
from prunebench.models.base import Unsupported
from prunebench.models.catalogue import aliases
from prunebench.registry import suggest

FILE = "public.json"


@dataclass(frozen=True)
class Parameters:
    """How many numbers a model's parts hold.

    `vision` and `projector` are those of all images and videos; `layers` of all decoder layers,
    `experts` the part of these that is experts of which a token meets some; `embedding` is the
    table of words, `head` what turns a state into logits, 0 where that is the table; `rest` are
    norms behind the last layer and the like.
    """

    vision: int
    projector: int
    layers: int
    experts: int
    embedding: int
    head: int
    rest: int

    @property
    def total(self) -> int:
        """All of them."""
        language = self.layers + self.embedding + self.head + self.rest
        return self.vision + self.projector + language


@dataclass(frozen=True)
class Record:
    """What is known of one public model: `config` as its class takes it, `images` how its processor
    cuts them, `source` where both were read.
    """

    name: str
    source: tuple[str, ...]
    images: Mapping[str, Any]
    config: Mapping[str, Any]
    parameters: Parameters


@cache
def records() -> dict[str, Record]:
    """Every public model that the package knows the configuration of, by its hub id."""
    text = resources.files(__package__).joinpath(FILE).read_text(encoding="utf-8")
    by_id = {}
    for name, values in json.loads(text).items():
        parameters = Parameters(**values["parameters"])
        by_id[name] = Record(
            name, tuple(values["source"]), values["images"], values["config"], parameters
        )
    return by_id


def short_names() -> dict[str, str]:
    """The short names of these models, with their hub ids."""
    return {name: source for name, source in aliases().items() if source in records()}


def record(name: str) -> Record:
    """The model of a short name or a hub id; raises Unsupported for one that is not known."""
    by_id, short = records(), short_names()
    hub_id = short.get(name, name)
    if hub_id in by_id:
        return by_id[hub_id]
    names: Sequence[str] = sorted(short)
    raise Unsupported(
        f"no configuration of model {one_line(name, 80)!r} comes with the package"
        f"{suggest(name, names, '')}; there are {', '.join(names)}"
    )
