"""IVC-Prune's vectors: values of a whole prompt, whose position ids count its places."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from prunebench import Signal, Stage
from prunebench.testing.case import Case
from prunebench.testing.vectors import Vector


def cases(method: Any, vector: Vector) -> Iterator[Case]:
    """The prompt is what stands before the image, the image and the text."""
    meta, values = vector.meta, vector.tensors["llm_values"]
    half = meta["head_size"] // 2
    frequencies = tuple(meta["rope_theta"] ** (-index / half) for index in range(half))
    pruner = method(overlaps=True, frequencies=frequencies)
    image, places = vector.image(), torch.arange(values.shape[1])
    tokens = replace(
        vector.tokens(),
        signals={
            Signal.PROMPT_VALUES: values,
            Signal.VISUAL_PLACES: image,
            Signal.TEXT_PLACES: places[~torch.isin(places, image)],
            Signal.POSITION_IDS: places[None],
        },
    )
    stage = Stage(pruner.site(), int(meta["budget"]), compact=True)
    yield Case(pruner, (stage,), tokens)
