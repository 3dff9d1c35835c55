"""Samples: a group of samples made ready for a model, with their images as they are or at a lower
resolution.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from prunebench.benchmarks import Benchmark, MediaError, Request
from prunebench.border.text import one_line
from prunebench.border.videos import Clip, VideoError
from prunebench.budget import Budget, BudgetError
from prunebench.measure.evidence import Box, evidence_mask
from prunebench.models.base import Originals, Unsupported
from prunebench.models.clips import check_seen, with_clips
from prunebench.models.inputs import Message, clips_of, image_parts, parts_of
from prunebench.pruner import Pruner
from prunebench.tokens import Layout, Signal

if TYPE_CHECKING:
    from prunebench.models import Loaded

Size = tuple[int, int]
"""Width and height in pixels."""

DIGITS = 16
"""Of a digest; that two of a million images share one is less likely than one in ten million."""


@dataclass(frozen=True)
class Samples:
    """Samples that go through the model together; `inputs` is what the processor made of all of
    them.

    `messages` hold a chat a sample, `sizes` the size of every image in the data, `layouts` where
    the tokens of `inputs` lie; `benchmark` is where the samples came from, and `fitted` says that
    their images are of their final size.
    """

    requests: tuple[Request, ...]
    messages: tuple[list[Message], ...]
    inputs: Mapping[str, Any]
    layouts: tuple[Layout, ...]
    sizes: tuple[tuple[Size, ...], ...]
    benchmark: Benchmark | None = None
    fitted: bool = False
    _singles: dict[int, Mapping[str, Any]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """By row, the inputs of one sample alone, as far as they were asked for."""
    _evidence: dict[int, list[Tensor] | None] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """By row, the tokens of each box of evidence, as far as they were asked for."""
    _digests: dict[int, str | None] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """By row, the digest of what a sample shows, as far as it was asked for."""

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
            arguments["pictures"] = [_pictures(chat) for chat in self.messages]
        if Signal.MASKS in needs:
            arguments["masks"] = _unless_missing([self._masks(one) for one in self.requests])
        return arguments

    def shown(self, row: int) -> tuple[list[int], float | None]:
        """The numbers of the frames that one of its samples shows of its videos, and how many a
        second the first of them has; no frames and None where it shows none.
        """
        clips = [clip for clip in clips_of(self.messages[row]) if isinstance(clip, Clip)]
        numbers: list[int] = []
        for clip in clips:
            numbers += clip.indices
        return numbers, clips[0].stretch.fps if clips else None

    def digest(self, row: int) -> str | None:
        """What tells the images and videos of one sample from those of another; None where it has
        none.
        """
        if row not in self._digests:
            self._digests[row] = _digest(self.messages[row])
        return self._digests[row]

    def single(self, loaded: Loaded, row: int) -> Mapping[str, Any]:
        """The inputs of one of its samples."""
        if len(self.requests) == 1:
            return self.inputs
        # anew, for the inputs of the group are padded to its longest; once for all cells
        if row not in self._singles:
            self._singles[row] = loaded.process([self.messages[row]], fitted=self.fitted)
        return self._singles[row]

    def shapes(self, row: int) -> Hashable | None:
        """All that decides the shapes in which a sample's pictures reach the vision encoder: their
        sizes, and where their tokens lie. None for one with videos, of which more is chosen.
        """
        chat = self.messages[row]
        if clips_of(chat):
            return None
        sizes = tuple(part["url"].size for part in image_parts(chat))
        return sizes, self.layouts[row].tiles, self.fitted

    def evidence(self, row: int) -> list[Tensor] | None:
        """[N] bool for each thing that the question is about, of which there may be none: a
        question after what is not there. None where nobody knows.

        That is where the data have no boxes, or one that is not in the image, and where there are
        several images, or a video, and the data do not say which picture a box lies in.
        """
        if row not in self._evidence:
            self._evidence[row] = self._evidence_of(row)
        return self._evidence[row]

    def _evidence_of(self, row: int) -> list[Tensor] | None:
        request, sizes = self.requests[row], self.sizes[row]
        boxes, pictures = request.evidence_boxes, request.evidence_pictures
        clips = clips_of(self.messages[row])
        if boxes is None or (not pictures and (clips or len(sizes) != 1)):
            return None
        things: dict[int, Tensor] = {}
        objects = request.evidence_objects or range(len(boxes))
        try:
            for number, thing in enumerate(objects):
                picture = pictures[number] if pictures else 0
                mask = self._box(row, boxes[number], picture, clips)
                things[thing] = things[thing] | mask if thing in things else mask
        except ValueError:
            return None
        return list(things.values())

    def _box(self, row: int, box: Box, picture: int, clips: Sequence[Any]) -> Tensor:
        """[N] bool: the tokens of a box in one of the images, or in a frame of the one video.

        Raises ValueError where there is no such picture, or no such place in it.
        """
        layout, sizes = self.layouts[row], self.sizes[row]
        if not clips:
            if not 0 <= picture < len(sizes):
                raise ValueError(f"picture {picture} of {len(sizes)}")
            return evidence_mask(layout, box, sizes[picture], picture)
        if len(clips) > 1 or sizes:
            raise ValueError("videos beside other pictures")
        frames = getattr(clips[0], "frames", None)
        if frames is None or not 0 <= picture < len(frames):
            raise ValueError(f"frame {picture} of a video without that frame")
        height, width = frames.shape[1:3]
        # some encoders make the tokens of one tile of several frames
        tile = picture * len(layout.tiles) // len(frames)
        return evidence_mask(layout, box, (width, height), frame=tile)

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
    """Read the samples' images and videos, and process them.

    Raises MediaError where a file is missing or broken, Unsupported where the model cannot see or
    hear what a sample shows.
    """
    if benchmark.hears:
        raise Unsupported(
            f"{loaded.family.name} hears nothing, and {one_line(benchmark.name, 60)} plays sound"
        )
    chats = []
    for request in requests:
        # qwen-vl-utils shows white where an image is transparent
        chat = benchmark.messages(request, on_white=loaded.manner.fetches)
        check_seen(loaded, chat, one_line(benchmark.name, 60))
        try:
            chats.append(with_clips(loaded, chat, benchmark.max_image_pixels))
        except VideoError as error:
            sample = one_line(f"sample {request.sample_id} of {benchmark.name}", 140)
            raise MediaError(one_line(f"{sample} cannot be read: {error}")) from error
    return prepared(loaded, requests, chats, benchmark)


def groups_of(requests: Sequence[Request], size: int) -> Iterator[list[Request]]:
    """Up to `size` samples in a row that are generated with the same settings; always the same
    groups.
    """
    for _, alike in groupby(requests, key=lambda request: request.generation):
        members = list(alike)
        for first in range(0, len(members), size):
            yield members[first : first + size]


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
            f"{loaded.id} scales every image to one resolution, "
            "so a smaller image has as many tokens"
        )
    chats, counts = [], []
    for chat, layout in zip(samples.messages, samples.layouts, strict=True):
        sizes = _smaller(layout, pixels, pruner, budget)
        counts.append(sum(width * height for width, height in sizes) // pixels**2)
        chats.append(_with_sizes(chat, sizes))
    inputs = loaded.process(chats, fitted=True)
    layouts = tuple(loaded.family.layouts(loaded.model, inputs))
    for layout, count in zip(layouts, counts, strict=True):
        if len(layout) != count:
            raise BudgetError(
                f"budget {budget}: an image of {count} visual tokens comes out of the processor "
                f"with {len(layout)}"
            )
    return replace(samples, messages=tuple(chats), inputs=inputs, layouts=layouts, fitted=True)


def seed_of(request: Request, seed: int) -> int:
    """A number that belongs to the sample and the study's seed, whatever else is in the batch."""
    return int.from_bytes(sha256(f"{seed}:{request.sample_id}".encode()).digest()[:6])


def _smaller(layout: Layout, pixels: int, pruner: Pruner, budget: Budget | None) -> list[Size]:
    """The size that the method gives every image of a sample, whose tokens are `pixels` wide."""
    if any(tile.kind == "frame" for tile in layout.tiles):
        raise Unsupported("a video is not resized, only images are")
    full = {tile.image: (tile.columns * pixels, tile.rows * pixels) for tile in layout.tiles}
    return [pruner.resize(full[number], pixels, budget) for number in sorted(full)]


def _pictures(chat: list[Message]) -> list[Tensor]:
    """[F, H, W, 3] uint8 of every image and video."""
    pictures = []
    for frames in _frames(chat):
        pictures.append(torch.stack([torch.from_numpy(np.array(frame)) for frame in frames]))
    return pictures


def _frames(chat: list[Message]) -> Iterator[Any]:
    """The frames of every image, which has one, and of every video."""
    for part in parts_of(chat):
        if part["type"] == "image":
            yield [part["url"]]
        elif part["type"] == "video":
            yield getattr(part["video"], "frames", part["video"])


def _digest(chat: list[Message]) -> str | None:
    """A digest of all that a chat shows, frame by frame with its size."""
    content = sha256()
    pictures = list(_frames(chat))
    for frames in pictures:
        for frame in frames:
            pixels = np.ascontiguousarray(frame)
            content.update(str(pixels.shape).encode())
            content.update(pixels.data)
    return content.hexdigest()[:DIGITS] if pictures else None


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
