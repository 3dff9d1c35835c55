"""Pictures: the inputs of a prompt that shows one image of a size, as far as shapes depend on them.

How a processor cuts an image stands in the model's record, under `cut`. Only shapes are made, no
pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from prunebench.border.text import one_line
from prunebench.models.base import Family, Size, Unsupported
from prunebench.pricing.outline import Outline

TEXT, MARK = 1, 2
"""Ids of words, and of the markers around tiles; any that no image has would do."""

Inputs = dict[str, Any]


def pictured(
    family: Family, outline: Outline, images: Mapping[str, Any], size: Size, text: int
) -> Inputs:
    """The inputs of a prompt of `text` words behind one image of that width and height.

    What a processor writes around an image counts as text on top. Raises Unsupported where the
    record does not say how images are cut.
    """
    cut = images.get("cut")
    if cut not in CUTS:
        raise Unsupported(
            f"how {family.name} cuts images is not known here ({one_line(repr(cut), 40)}); "
            f"known are {', '.join(CUTS)}"
        )
    inputs = CUTS[cut](family, outline, images, size)
    words = [TEXT] * max(1, text)
    inputs["input_ids"] = torch.tensor([[*inputs["input_ids"], *words]])
    return inputs


def _grid(family: Family, outline: Outline, images: Mapping[str, Any], size: Size) -> Inputs:
    """Qwen's: the size is brought to whole tokens, within limits of pixels."""
    vision = outline.config.vision_config
    side = vision.patch_size * vision.spatial_merge_size
    width, height = whole_tokens(size, side, images["min_pixels"], images["max_pixels"])
    rows, columns = height // vision.patch_size, width // vision.patch_size
    tokens = rows * columns // vision.spatial_merge_size**2
    return {
        "input_ids": [outline.config.image_token_id] * tokens,
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


def _square(family: Any, outline: Outline, images: Mapping[str, Any], size: Size) -> Inputs:
    """LLaVA-1.5's: one square crop, whatever the size."""
    tokens = family.tokens_a_side(outline.config) ** 2
    return {"input_ids": [outline.config.image_token_id] * tokens}


def _anyres(family: Any, outline: Outline, images: Mapping[str, Any], size: Size) -> Inputs:
    """LLaVA-NeXT's and OneVision's: a thumbnail and crops, packed by the model itself."""
    width, height = size
    tokens = len(family.cut(outline, height, width).layout)
    return {
        "input_ids": [outline.config.image_token_id] * tokens,
        "image_sizes": torch.tensor([[height, width]]),
    }


def _tiles(family: Any, outline: Outline, images: Mapping[str, Any], size: Size) -> Inputs:
    """InternVL's: tiles of one size on the canvas that fits best, and a thumbnail behind them."""
    # late, for it needs torchvision
    from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas

    width, height = size
    crop = tuple(outline.config.vision_config.image_size)
    limits = images["min_patches"], images["max_patches"]
    across, down = get_optimal_tiled_canvas((height, width), crop, *limits)
    count = across * down
    tokens = (count + (count > 1)) * family.tokens_a_side(outline.config) ** 2
    return {"input_ids": [outline.config.image_token_id] * tokens}


def _split(family: Any, outline: Outline, images: Mapping[str, Any], size: Size) -> Inputs:
    """SmolVLM2's: a grid of tiles, each behind two markers, and the whole image last."""
    tile, token = images["tile"], outline.config.image_token_id
    columns, rows = (math.ceil(edge / tile) for edge in scaled(size, images["longest_edge"]))
    tokens = [token] * family.tokens_a_side(outline.config) ** 2
    ids: list[int] = []
    if rows * columns > 1:
        for _ in range(rows):
            for column in range(columns):
                ids += [MARK, TEXT + 2 + column, *tokens]
            ids.append(TEXT)
    ids += [MARK, MARK + 1_000, *tokens, MARK]
    return {"input_ids": ids}


def scaled(size: Size, longest: int) -> Size:
    """Width and height with the longer side of that many pixels and the other one even."""
    width, height = size
    ratio = width / height
    if width >= height:
        other = int(longest / ratio)
        return longest, max(1, other + other % 2)
    other = int(longest * ratio)
    return max(1, other + other % 2), longest


CUTS: Mapping[str, Callable[..., Inputs]] = {
    "grid": _grid,
    "square": _square,
    "anyres": _anyres,
    "tiles": _tiles,
    "split": _split,
}
"""How processors cut images, by the name that a record gives it."""

BY_TRANSFORMERS = frozenset({"anyres", "tiles"})
"""Those ways that transformers is asked about."""
