"""Samples: a group of samples made ready for a model, with their images as they are or at a lower
resolution.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from prunebench.benchmarks import Benchmark, Request
from prunebench.budget import Budget, BudgetError
from prunebench.models.base import Originals, Unsupported
from prunebench.models.inputs import Message, image_parts, parts_of
from prunebench.pruner import Pruner
from prunebench.tokens import Layout, Signal

if TYPE_CHECKING:
    from prunebench.models import Loaded

Size = tuple[int, int]
"""Width and height in pixels."""


@dataclass(frozen=True)
class Samples:
    """Samples that go through the model together; `inputs` is what the processor made of all of
    them.

    `messages` hold a chat a sample, `sizes` the size of every image in the data, `layouts` where
    the tokens of `inputs` lie; `benchmark` is where the samples came from.
    """

    requests: tuple[Request, ...]
    messages: tuple[list[Message], ...]
    inputs: Mapping[str, Any]
    layouts: tuple[Layout, ...]
    sizes: tuple[tuple[Size, ...], ...]
    benchmark: Benchmark | None = None
    _singles: dict[int, Mapping[str, Any]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """By row, the inputs of one sample alone, as far as they were asked for."""

    def caller_gives(self, loaded: Loaded, needs: frozenset[Signal]) -> dict[str, Any]:
        """What `prune` is given beside the model: of what a method `needs` that which the data
        have.
        """
        arguments: dict[str, Any] = {
            "questions": [request.question for request in self.requests],
            "processor": loaded.processor,
            "layouts": self.layouts,
        }
        if Signal.PICTURES in needs:
            arguments["pictures"] = _unless_missing([_pictures(chat) for chat in self.messages])
        if Signal.MASKS in needs:
            arguments["masks"] = _unless_missing([self._masks(one) for one in self.requests])
        return arguments

    def single(self, loaded: Loaded, row: int) -> Mapping[str, Any]:
        """The inputs of one of its samples."""
        if len(self.requests) == 1:
            return self.inputs
        # anew, for the inputs of the group are padded to its longest; once for all cells
        if row not in self._singles:
            self._singles[row] = loaded.process([self.messages[row]])
        return self._singles[row]

    def _masks(self, request: Request) -> list[Tensor] | None:
        """[Q, H, W] bool of the one image whose things are numbered from 1; None where nothing is
        known.
        """
        numbers = self.benchmark.masks(request) if self.benchmark is not None else None
        if numbers is None:
            return None
        values = torch.from_numpy(np.array(numbers)).long()
        things = torch.arange(1, int(values.max()) + 1)
        return [values == things[:, None, None]]


def read(loaded: Loaded, benchmark: Benchmark, requests: Sequence[Request]) -> Samples:
    """Read the samples' images and process them; raises MediaError where a file is missing or
    broken.
    """
    chats = [benchmark.messages(request) for request in requests]
    return prepared(loaded, requests, chats, benchmark)


def prepared(
    loaded: Loaded,
    requests: Sequence[Request],
    chats: Sequence[list[Message]],
    benchmark: Benchmark | None = None,
) -> Samples:
    """Process chats whose images are read already."""
    inputs = loaded.process(chats)
    sizes = []
    for chat in chats:
        sizes.append(tuple(part["url"].size for part in image_parts(chat)))
    originals = Originals(tuple(sizes), loaded.processor)
    layouts = loaded.family.layouts(loaded.model, inputs, originals)
    return Samples(tuple(requests), tuple(chats), inputs, tuple(layouts), tuple(sizes), benchmark)


def resized(loaded: Loaded, samples: Samples, pruner: Pruner, budget: Budget | None) -> Samples:
    """The same samples, their images scaled the way `pruner` says.

    Raises Unsupported where the model has one resolution or the sample a video, BudgetError
    where the processor does not go so low.
    """
    pixels = loaded.family.token_pixels(loaded.model)
    if pixels is None:
        raise Unsupported(
            f"{loaded.name} scales every image to one resolution, "
            "so a smaller image has as many tokens"
        )
    chats, counts = [], []
    for chat, layout in zip(samples.messages, samples.layouts, strict=True):
        sizes = _smaller(layout, pixels, pruner, budget)
        counts.append(sum(width * height for width, height in sizes) // pixels**2)
        chats.append(_with_sizes(chat, sizes))
    inputs = loaded.process(chats)
    layouts = tuple(loaded.family.layouts(loaded.model, inputs))
    for layout, count in zip(layouts, counts, strict=True):
        if len(layout) != count:
            raise BudgetError(
                f"budget {budget}: an image of {count} visual tokens comes out of the processor "
                f"with {len(layout)}"
            )
    return replace(samples, messages=tuple(chats), inputs=inputs, layouts=layouts)


def seed_of(request: Request, seed: int) -> int:
    """A number that belongs to the sample and the study's seed, whatever else is in the batch."""
    return int.from_bytes(sha256(f"{seed}:{request.sample_id}".encode()).digest()[:6])


def _smaller(layout: Layout, pixels: int, pruner: Pruner, budget: Budget | None) -> list[Size]:
    """The size that the method gives every image of a sample, whose tokens are `pixels` wide."""
    if any(tile.kind == "frame" for tile in layout.tiles):
        raise Unsupported("a video is not resized, only images are")
    full = {tile.image: (tile.columns * pixels, tile.rows * pixels) for tile in layout.tiles}
    return [pruner.resize(full[number], pixels, budget) for number in sorted(full)]


def _pictures(chat: list[Message]) -> list[Tensor] | None:
    """[F, H, W, 3] uint8 of every image and video; None where a video is a file, whose frames only
    its reader knows.
    """
    pictures = []
    for part in parts_of(chat):
        if part["type"] == "text":
            continue
        if part["type"] == "image":
            frames: Any = [part["url"]]
        else:
            frames = part.get("video", part.get("url"))
        if frames is None or isinstance(frames, str):
            return None
        pictures.append(torch.stack([torch.from_numpy(np.array(frame)) for frame in frames]))
    return pictures


def _unless_missing(values: list[Any]) -> list[Any] | None:
    """The values, None where one is missing."""
    return None if any(value is None for value in values) else values


def _with_sizes(chat: list[Message], sizes: Sequence[Size]) -> list[Message]:
    """The chat with its images scaled to `sizes`, in order."""
    following = iter(sizes)
    turns = []
    for turn in chat:
        content = turn["content"]
        if not isinstance(content, str):
            content = [_scaled(part, following) for part in content]
        turns.append({**turn, "content": content})
    return turns


def _scaled(part: Message, following: Any) -> Message:
    """An image at the size that comes next; another part as it is."""
    if part["type"] != "image":
        return part
    return {**part, "url": part["url"].resize(next(following))}
