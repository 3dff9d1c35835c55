"""Subject: a model at real size, whose prompts and methods have a price."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from prunebench.engine.ready import Ready, make_ready
from prunebench.models.base import Family, Size
from prunebench.models.catalogue import family_of_type
from prunebench.pricing.counting import stock_model
from prunebench.pricing.outline import Outline
from prunebench.pricing.pictures import Inputs, pictured
from prunebench.pricing.public import Parameters, Record
from prunebench.pricing.settings import Settings
from prunebench.pruner import Pruner
from prunebench.tokens import Layout, Region

WHOLE: Region = (0.0, 0.0, 1.0, 1.0)
"""All of a picture."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A model's family, its outline, how its processor cuts images, and how large its parts are."""

    name: str
    family: Family
    outline: Outline
    images: Mapping[str, Any]
    parameters: Parameters

    @classmethod
    def of(cls, record: Record) -> Subject:
        """The subject of a public model's record."""
        config = Settings(record.config)
        family = family_of_type(str(record.config["model_type"]))
        outline = Outline(family, config, record.name, lambda: stock_model(record.config))
        return cls(record.name, family, outline, record.images, record.parameters)

    @property
    def config(self) -> Any:
        """The model's configuration."""
        return self.outline.config

    @property
    def text_config(self) -> Any:
        """That of its language model."""
        return self.config.get_text_config()

    @property
    def layers(self) -> int:
        """How many layers the language model has."""
        return int(self.text_config.num_hidden_layers)

    def ready(self, pruner: Pruner) -> Ready:
        """A method bound to the model; raises Unsupported where the model cannot serve it."""
        return make_ready(self.family, self.outline, pruner)

    def scene(self, size: Size, text: int) -> Scene:
        """A prompt of an image of that width and height with `text` words behind it."""
        inputs = pictured(self.family, self.outline, self.images, size, text)
        return Scene(self, size, inputs)


@dataclass(frozen=True, eq=False)
class Scene:
    """A prompt with one image of a size, as its shapes go."""

    subject: Subject
    size: Size
    inputs: Inputs

    @cached_property
    def layout(self) -> Layout:
        """Where its visual tokens lie."""
        (layout,) = self.subject.family.layouts(self.subject.outline, self.inputs)
        # where a tile lies in its picture changes no cost, but some methods want it known
        tiles = [replace(tile, region=tile.region or WHOLE) for tile in layout.tiles]
        places = torch.stack([layout.tile, layout.row, layout.column], dim=1)
        return Layout(tuple(tiles), places)

    @cached_property
    def marks(self) -> Tensor:
        """[S] bool: which positions of the prompt are visual."""
        return self.subject.family.visual(self.subject.outline, self.inputs["input_ids"])[0]

    @property
    def visual(self) -> int:
        """How many visual tokens there are before anything is pruned."""
        return len(self.layout)

    @property
    def text(self) -> int:
        """Everything in the prompt that is no visual token."""
        return int(self.inputs["input_ids"].shape[1]) - self.visual

    @cached_property
    def lead(self) -> int:
        """How much of that stands in front of the first visual token."""
        places = self.marks.nonzero()[:, 0].tolist()
        return int(places[0]) if places else self.text
