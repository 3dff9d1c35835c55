"""Stitching: where the tokens lie of an image that comes as a thumbnail and crops, which the model
stitches together, unpads and may shrink.

The model's own packing says so: given every patch's place instead of its features, it puts out
every token's place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from torch import Tensor

from prunebench.models.crops import patches_a_side
from prunebench.tokens import Layout, Region, Tile

NEWLINE = torch.full((2,), -1.0, dtype=torch.float64)
"""The place of a newline token."""


@dataclass(frozen=True)
class View:
    """One image or video as the language model sees it.

    `patches` [n, G] are those that each token of its layout was made of, counted through its
    `crops` (each a sequence of the encoder), -1 for a newline.
    """

    layout: Layout
    patches: Tensor
    crops: int
    video: bool = False


def grid(config: Any, height: int, width: int) -> tuple[int, int]:
    """Crops down and across that an image of this size is cut into."""
    # late: it takes seconds to import, which arithmetic on other models does without
    from transformers.image_processing_utils import select_best_resolution

    best = select_best_resolution((height, width), config.image_grid_pinpoints)
    crop = config.vision_config.image_size
    return ceil(best[0] / crop), ceil(best[1] / crop)


def places(side: int, down: int, across: int) -> Tensor:
    """[1 + down * across, side * side, 2] row and column of every patch: in the thumbnail, and in
    the grid of all crops.
    """
    rows, columns = torch.arange(down * side), torch.arange(across * side)
    canvas = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=2)
    thumbnail = canvas[:side, :side].reshape(1, -1, 2)
    # [down, across, side, side, 2]: crops row by row, as the encoder takes them
    crops = canvas.view(down, side, across, side, 2).transpose(1, 2)
    # doubles: interpolation takes no integers, and float32 is too coarse for six decimals
    return torch.cat([thumbnail, crops.reshape(-1, side * side, 2)]).double()


def stitched(config: Any, packed: Tensor, height: int, width: int) -> View:
    """A thumbnail and crops; `packed` [n, 2] is what the model made of their `places`, `height` and
    `width` the image's own.

    The crops' tokens are one grid, each row closed by a newline; a token belongs to the crop in
    which its centre lies.
    """
    vision = config.vision_config
    side = patches_a_side(vision)
    down, across = grid(config, height, width)
    packed = packed.round(decimals=6)  # interpolation leaves dust
    # only newlines are negative: the model appends them behind its interpolation
    newline = packed[:, 0] < 0
    thumbnail, crops = packed[: side**2], packed[side**2 :]
    lines = int(newline.sum())  # every row ends with one newline
    canvas = crops.view(lines, len(crops) // max(1, lines), 2)
    # the directions are cut and shrunk apart: one column tells all rows, one row all columns
    rows = _Axis.of(canvas[:, :1, 0].flatten(), side)
    columns = _Axis.of(canvas[:1, :-1, 1].flatten(), side)
    # where the image is so thin that the model cuts every column off, newlines alone are left; they
    # stand as far apart as the rows of all crops
    if lines and not len(columns.places):
        apart = down * side / lines
        rows = _Axis.of((torch.arange(lines) + 0.5) * apart - 0.5, side)
    last = int(columns.crop[-1]) if len(columns.crop) else (across - 1) // 2

    # the image fills the grid of crops in one direction and is padded in the other
    scale = min(down * vision.image_size / height, across * vision.image_size / width)
    high = rows.spans(vision, down, height * scale)
    wide = columns.spans(vision, across, width * scale)
    tiles = [Tile(side, side, "thumbnail", region=whole(vision))]
    tiles += _crop_tiles(high, wide, last)

    of_thumbnail = torch.cat([torch.zeros(side**2, 1), thumbnail], dim=1).long()
    tokens = torch.cat([of_thumbnail, _crop_tokens(rows, columns, across, last)])
    # a thumbnail's places lie within the first crop, so its patches get numbers from 0 here
    patches = neighbours(packed, side, across)
    patches[side**2 :] += side**2  # the thumbnail is the encoder's first sequence
    # last, for the newlines have come through the arithmetic like places
    patches[newline] = -1
    return View(Layout(tuple(tiles), tokens), patches, len(tiles))


def neighbours(places: Tensor, side: int, across: int) -> Tensor:
    """[n, 4] the patches that the `places` [n, 2] lie between, counted crop by crop; [n, 1] where
    each lies on one.
    """
    low, high = places.floor().long(), places.ceil().long()
    top, left = low.unbind(1)
    bottom, right = high.unbind(1)
    row = torch.stack([top, top, bottom, bottom], dim=1)
    column = torch.stack([left, right, left, right], dim=1)
    # not interpolated: all four are the same patch
    if torch.equal(low, high):
        row, column = row[:, :1], column[:, :1]
    crop = row // side * across + column // side
    within = row % side * side + column % side
    patches: Tensor = crop * side**2 + within
    return patches


def whole(vision_config: Any) -> Region:
    """What the patches cover of an image that fills its crop: not a last strip that is narrower
    than a patch.
    """
    pixels = patches_a_side(vision_config) * vision_config.patch_size
    covered = pixels / vision_config.image_size
    return (0.0, 0.0, covered, covered)


Span = tuple[int, float, float]
"""How many tokens a crop has in one direction, and from where to where they reach, in shares of the
image's side.
"""


@dataclass(frozen=True)
class _Axis:
    """One direction of the stitched crops: the places of the tokens there, in patches, and the crop
    that each lies in.
    """

    places: Tensor
    crop: Tensor

    @classmethod
    def of(cls, places: Tensor, side: int) -> _Axis:
        """The axis of tokens at these places, where crops are `side` patches long."""
        # places are of centres: half a patch more is the distance from the edge of all crops
        return cls(places, (places + 0.5).floor().long() // side)

    def spans(self, vision_config: Any, crops: int, image_pixels: float) -> list[Span]:
        """Of each of `crops` crops its span; the image is `image_pixels` long and lies in the
        middle of them.
        """
        size, side = vision_config.image_size, patches_a_side(vision_config)
        count = len(self.places)
        apart = 1.0
        if count > 1:  # tokens of a shrunk image are further apart than patches
            apart = float(self.places[-1] - self.places[0]) / (count - 1)
        padding = (crops * size - image_pixels) / 2
        spans = []
        for number in range(crops):
            inside = self.places[self.crop == number]
            edges = (0.0, 0.0)
            if len(inside):
                first, last = float(inside[0]), float(inside[-1])
                # a token reaches half the way to its neighbours, also beyond the first and the last
                edges = (first + 0.5 - apart / 2, last + 0.5 + apart / 2)
            shares = []
            for edge in edges:
                # by way of the crop: between two crops' patches may lie a strip that none covers
                pixel = number * size + (edge - number * side) * vision_config.patch_size
                shares.append((pixel - padding) / image_pixels)
            spans.append((len(inside), shares[0], shares[1]))
        return spans


def _crop_tiles(rows: Sequence[Span], columns: Sequence[Span], last: int) -> Iterator[Tile]:
    """The tiles of all crops, row by row; those in the `last` column of crops end with newlines."""
    for high, top, bottom in rows:
        for number, (wide, left, right) in enumerate(columns):
            if high and wide:
                region = (left, top, right, bottom)
                yield Tile(high, wide, "crop", newlines=number == last, region=region)
            elif high and number == last and not any(wide for wide, _, _ in columns):
                yield Tile(high, 0, "crop", newlines=True, region=None)
            else:  # nothing but padding
                yield Tile(0, 0, "crop", region=None)


def _crop_tokens(rows: _Axis, columns: _Axis, across: int, last: int) -> Tensor:
    """[n, 3] tile, row and column of every token behind the thumbnail, newlines among them."""
    # a newline belongs to the crop on its left, the `last` that shows any of the image
    left = torch.cat([columns.crop, columns.crop.new_tensor([last])])
    above = rows.crop
    # [rows, columns + 1]; tile 0 is the thumbnail
    tile = 1 + above[:, None] * across + left
    # crops ascend along an axis: where a crop's number appears first, its own count starts
    row = torch.arange(len(above)) - torch.searchsorted(above, above)
    column = torch.arange(len(left)) - torch.searchsorted(left, left)
    token = [tile, row[:, None].expand_as(tile), column.expand_as(tile)]
    return torch.stack(token, dim=2).view(-1, 3)
