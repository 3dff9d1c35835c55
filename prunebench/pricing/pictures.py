"""Pictures: the inputs of a prompt that shows one image of a size, as far as shapes depend on them.

How a processor cuts an image stands in the model's record, under `cut`. Only shapes are made, no
pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from prunebench.border.text import one_line
from prunebench.models.base import Family, Size, Unsupported
from prunebench.pricing.outline import Outline

Inputs = dict[str, Any]


@dataclass(frozen=True)
class Picture:
    """An image of a size, in front of a model whose record says how `images` are cut."""

    family: Any
    outline: Outline
    images: Mapping[str, Any]
    size: Size

    @property
    def config(self) -> Any:
        """The model's configuration."""
        return self.outline.config

    @property
    def token(self) -> int:
        """The id that stands for a visual token."""
        return int(self.config.image_token_id)

    @property
    def word(self) -> int:
        """An id that stands for no image; nor do those above it."""
        return int(max(self.family.placeholders(self.outline)) + 1)


def pictured(
    family: Family, outline: Outline, images: Mapping[str, Any], size: Size, text: int
) -> Inputs:
    """The inputs of a prompt of `text` words behind one image of that width and height.

    What a processor writes around an image counts as text on top. Raises Unsupported where the
    record does not say how images are cut.
    """
    cut, picture = str(images.get("cut")), Picture(family, outline, images, size)
    if cut not in CUTS:
        raise Unsupported(
            f"how {family.name} cuts images is not known here ({one_line(repr(cut), 40)}); "
            f"known are {', '.join(CUTS)}"
        )
    inputs = CUTS[cut](picture)
    words = [picture.word] * max(1, text)
    inputs["input_ids"] = torch.tensor([[*inputs["input_ids"], *words]])
    return inputs


def _grid(picture: Picture) -> Inputs:
    """Qwen's: the size is brought to whole tokens, within limits of pixels."""
    vision, images = picture.config.vision_config, picture.images
    side = vision.patch_size * vision.spatial_merge_size
    limits = images["min_pixels"], images["max_pixels"]
    width, height = whole_tokens(picture.size, side, *limits)
    rows, columns = height // vision.patch_size, width // vision.patch_size
    tokens = rows * columns // vision.spatial_merge_size**2
    return {
        "input_ids": [picture.token] * tokens,
        "image_grid_thw": torch.tensor([[1, rows, columns]]),
    }


def whole_tokens(size: Size, side: int, least: int, most: int) -> Size:
    """Width and height as multiples of a token's `side` with `least` to `most` pixels: what
    transformers' smart_resize gives, which takes three seconds to import.
    """
    width, height = size
    if max(size) > 200 * min(size):
        raise Unsupported(
            f"an image of {width}x{height} is more than 200 times as long as it is wide, "
            "which the processor refuses"
        )
    # Python's rounding, to even numbers, is the processor's
    wide, high = (round(edge / side) * side for edge in size)
    if wide * high > most:
        scale = math.sqrt(width * height / most)
        wide, high = (max(side, math.floor(edge / scale / side) * side) for edge in size)
    elif wide * high < least:
        scale = math.sqrt(least / (width * height))
        wide, high = (math.ceil(edge * scale / side) * side for edge in size)
    return wide, high


def _square(picture: Picture) -> Inputs:
    """LLaVA-1.5's: one square crop, whatever the size."""
    return {"input_ids": _tile(picture)}


def _anyres(picture: Picture) -> Inputs:
    """LLaVA-NeXT's and OneVision's: a thumbnail and crops, packed by the model itself."""
    width, height = picture.size
    tokens = len(picture.family.cut(picture.outline, height, width).layout)
    return {
        "input_ids": [picture.token] * tokens,
        "image_sizes": torch.tensor([[height, width]]),
    }


def _tiles(picture: Picture) -> Inputs:
    """InternVL's: tiles of one size on the canvas that fits best, and a thumbnail behind them."""
    # late, for it needs torchvision
    from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas

    crop = tuple(picture.config.vision_config.image_size)
    limits = picture.images["min_patches"], picture.images["max_patches"]
    across, down = get_optimal_tiled_canvas(picture.size[::-1], crop, *limits)
    count = across * down
    return {"input_ids": _tile(picture) * (count + (count > 1))}


def _split(picture: Picture) -> Inputs:
    """SmolVLM2's: a grid of tiles, each behind two markers, and the whole image last."""
    tile, longest = picture.images["tile"], picture.images["longest_edge"]
    columns, rows = (math.ceil(edge / tile) for edge in scaled(picture.size, longest))
    tokens, word = _tile(picture), picture.word
    mark, of_tile, of_whole = word + 1, word + 2, word + 3
    ids: list[int] = []
    if rows * columns > 1:
        ids += ([mark, of_tile, *tokens] * columns + [word]) * rows
    ids += [mark, of_whole, *tokens, mark]
    return {"input_ids": ids}


def _tile(picture: Picture) -> list[int]:
    """The visual tokens of one crop."""
    return [picture.token] * int(picture.family.tokens_a_side(picture.config) ** 2)


def scaled(size: Size, longest: int) -> Size:
    """Width and height with the longer side of that many pixels and the other one even."""
    width, height = size
    ratio = width / height
    if width >= height:
        other = int(longest / ratio)
        return longest, max(1, other + other % 2)
    other = int(longest * ratio)
    return max(1, other + other % 2), longest


CUTS: Mapping[str, Callable[[Picture], Inputs]] = {
    "grid": _grid,
    "square": _square,
    "anyres": _anyres,
    "tiles": _tiles,
    "split": _split,
}
"""How processors cut images, by the name that a record gives it."""

BY_TRANSFORMERS = frozenset({"anyres", "tiles"})
"""Those ways that transformers is asked about."""
