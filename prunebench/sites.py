"""Sites: the seams of a forward pass where visual tokens can be removed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum


class Part(IntEnum):
    """Where in the forward pass, in the order in which it runs."""

    PIXELS = 0
    VISION = 1
    INPUT = 2
    LLM = 3


@dataclass(frozen=True, order=True)
class Site:
    """A seam: "pixels", "vision:22", "input" or "llm:2"; layers count from 0 and the seam lies
    *before* the layer.
    """

    part: Part
    layer: int = 0

    def __post_init__(self) -> None:
        if self.part in (Part.PIXELS, Part.INPUT) and self.layer != 0:
            raise ValueError(f"site {self.part.name.lower()} has no layers, got layer {self.layer}")
        if self.layer < 0:
            raise ValueError(f"a site's layer counts from 0, got {self.layer}")
        if self.part is Part.LLM and self.layer == 0:
            raise ValueError("llm:0 is the language model's entry: name it 'input'")

    def __str__(self) -> str:
        name = self.part.name.lower()
        return name if self.part in (Part.PIXELS, Part.INPUT) else f"{name}:{self.layer}"

    def exists_in(self, layers: int) -> bool:
        """Whether a model of so many LLM layers has the seam, if its vision encoder is as deep as
        need be.
        """
        return self.part is not Part.LLM or self.layer < layers

    def is_before(self, layer: int) -> bool:
        """Whether what is dropped here does not enter that LLM layer."""
        return self.part is not Part.LLM or self.layer <= layer

    @classmethod
    def parse(cls, text: str) -> Site:
        """The site that `str(site)` names; raises ValueError for anything else."""
        match = re.fullmatch(r"(pixels|input)|(vision|llm):(\d+)", text)
        if match is None:
            raise ValueError(
                f"unknown site {text!r}; write 'pixels', 'vision:22', 'input' or 'llm:2'"
            )
        whole, part, layer = match.groups()
        return cls(Part[whole.upper()]) if whole else cls(Part[part.upper()], int(layer))


PIXELS = Site(Part.PIXELS)
"""Before the processor: the image itself is made smaller."""

INPUT = Site(Part.INPUT)
"""Behind the projector, where visual tokens enter the language model."""


def vision(before: int) -> Site:
    """The seam before block `before` of the vision encoder, which is 1 or more.

    What a stage keeps there enters the language model: a budget counts it as it counts the input.
    """
    return Site(Part.VISION, before)


def llm(before: int) -> Site:
    """The seam before layer `before` of the language model; `before` is 1 or more."""
    return Site(Part.LLM, before)


def llm_at(layer: int | float, layers: int) -> Site:
    """The seam before a layer that is named by its number or, as a float, by its share of the depth
    of `layers`, of which the nearest there is.
    """
    if isinstance(layer, int):
        return llm(layer)
    return llm(max(1, min(round(layer * layers), layers - 1)))
