"""Samples: a group of samples made ready for a model, with their images as they are or at a lower
resolution.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from prunebench.benchmarks import Benchmark, Request
from prunebench.budget import Budget, BudgetError
from prunebench.models.base import Originals, Unsupported
from prunebench.models.inputs import Message
from prunebench.models.inputs import image_parts as _images
from prunebench.models.inputs import parts_of as _parts
from prunebench.models.inputs import process as process
from prunebench.pruner import Pruner
from prunebench.tokens import Layout, Signal

if TYPE_CHECKING:
    from prunebench.models import Loaded

Size = tuple[int, int]


@dataclass(frozen=True)
class Samples:
    """Samples that go through the model together; `inputs` is what the processor made of all of
    them.

    `sizes` are the (width, height) of every sample's images in the data, `layouts` where the tokens
    of `inputs` lie; `benchmark` is where the samples came from.
    """

    requests: tuple[Request, ...]
    messages: tuple[list[Message], ...]
    inputs: Mapping[str, Any]
    layouts: tuple[Layout, ...]
    sizes: tuple[tuple[Size, ...], ...]
    benchmark: Benchmark | None = None

    def told(self, loaded: Loaded, pruner: Pruner) -> dict[str, Any]:
        """What `prune` is told of the samples, as far as the method reads it and the data have it."""
        told: dict[str, Any] = {
            "questions": [request.question for request in self.requests],
            "processor": loaded.processor,
            "layouts": self.layouts,
        }
        if Signal.PICTURES in pruner.needs:
            told["pictures"] = _all([_pictures(message) for message in self.messages])
        if Signal.MASKS in pruner.needs:
            told["masks"] = _all(
                [
                    _masks(self.benchmark and self.benchmark.masks(request))
                    for request in self.requests
                ]
            )
        return told

    def single(self, loaded: Loaded, row: int) -> Mapping[str, Any]:
        """The inputs of one of its samples."""
        return self.inputs if len(self.requests) == 1 else process(loaded, [self.messages[row]])


def read(loaded: Loaded, benchmark: Benchmark, requests: Sequence[Request]) -> Samples:
    """Read the samples' images and process them; raises MediaError where a file is missing or
    broken.
    """
    messages = tuple(benchmark.messages(request) for request in requests)
    inputs = process(loaded, messages)
    sizes = tuple(tuple(part["url"].size for part in _images(message)) for message in messages)
    return Samples(
        tuple(requests),
        messages,
        inputs,
        tuple(loaded.family.layouts(loaded.model, inputs, Originals(sizes, loaded.processor))),
        sizes,
        benchmark,
    )


def resized(loaded: Loaded, prompt: Samples, pruner: Pruner, budget: Budget | None) -> Samples:
    """The same samples, their images scaled the way `pruner` says.

    Raises Unsupported where the model has one resolution or the sample a video, BudgetError
    where the processor does not go so low.
    """
    cell = loaded.family.token_pixels(loaded.model)
    if cell is None:
        raise Unsupported(
            f"{loaded.name} scales every image to one resolution, so a smaller image has as many tokens"
        )
    messages, planned = [], []
    for message, layout in zip(prompt.messages, prompt.layouts, strict=True):
        if any(tile.kind == "frame" for tile in layout.tiles):
            raise Unsupported("a video is not resized, only images are")
        grids = {tile.image: (tile.columns * cell, tile.rows * cell) for tile in layout.tiles}
        sizes = [pruner.resize(grids[number], cell, budget) for number in sorted(grids)]
        planned.append(sum(width * height for width, height in sizes) // cell**2)
        messages.append(_with_images(message, sizes))
    inputs = process(loaded, messages)
    layouts = tuple(loaded.family.layouts(loaded.model, inputs))
    for layout, count in zip(layouts, planned, strict=True):
        if len(layout) != count:
            raise BudgetError(
                f"budget {budget}: an image of {count} visual tokens comes out of the processor with {len(layout)}"
            )
    return replace(prompt, messages=tuple(messages), inputs=inputs, layouts=layouts)


def seed_of(request: Request, seed: int) -> int:
    """A number that belongs to the sample and the study's seed, whatever else is in the batch."""
    return int.from_bytes(sha256(f"{seed}:{request.sample_id}".encode()).digest()[:6])


def _pictures(message: list[Message]) -> list[Tensor] | None:
    """[F, H, W, 3] uint8 of every image and video; None where a video is a file, whose frames only
    its reader knows.
    """
    found = []
    for part in _parts(message):
        if part["type"] == "text":
            continue
        frames: Any = (
            [part["url"]] if part["type"] == "image" else part.get("video", part.get("url"))
        )
        if frames is None or isinstance(frames, str):
            return None
        found.append(torch.stack([torch.from_numpy(np.array(frame)) for frame in frames]))
    return found


def _masks(numbers: Any) -> list[Tensor] | None:
    """[Q, H, W] bool of the one image whose things are numbered from 1; None where nothing is
    known.
    """
    if numbers is None:
        return None
    values = torch.from_numpy(np.array(numbers)).long()
    return [values == torch.arange(1, int(values.max()) + 1)[:, None, None]]


def _all(values: list[Any]) -> list[Any] | None:
    """The values, None where one is missing."""
    return None if any(value is None for value in values) else values


def _with_images(message: list[Message], sizes: Sequence[Size]) -> list[Message]:
    """The message with its images scaled to `sizes`, in order."""
    following = iter(sizes)

    def scaled(part: Message) -> Message:
        return (
            {**part, "url": part["url"].resize(next(following))}
            if part["type"] == "image"
            else part
        )

    return [
        turn
        if isinstance(turn["content"], str)
        else {**turn, "content": [scaled(part) for part in turn["content"]]}
        for turn in message
    ]
