"""Images that come as a thumbnail and crops, which the model stitches together, unpads and may
shrink: what it makes of them.

The model's own packing says so: given every patch's place instead of its features, it puts out
every token's place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import ceil
from typing import Any

import torch
from torch import Tensor
from transformers.image_processing_utils import select_best_resolution

from prunebench.models import crops as vit
from prunebench.models.base import EncoderRows
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
    best = select_best_resolution((height, width), config.image_grid_pinpoints)
    crop = config.vision_config.image_size
    return ceil(best[0] / crop), ceil(best[1] / crop)


def places(side: int, down: int, across: int) -> Tensor:
    """[1 + down * across, side * side, 2] row and column of every patch: in the thumbnail, and in
    the grid of all crops.
    """
    row, column = torch.meshgrid(
        torch.arange(down * side), torch.arange(across * side), indexing="ij"
    )
    cut = (
        torch.stack([row, column])
        .view(2, down, side, across, side)
        .permute(1, 3, 2, 4, 0)
        .reshape(-1, side * side, 2)
    )
    thumbnail = torch.stack([row[:side, :side], column[:side, :side]], dim=2).view(1, -1, 2)
    return torch.cat([thumbnail, cut]).double()


def stitched(config: Any, packed: Tensor, height: int, width: int) -> View:
    """A thumbnail and crops; `packed` [n, 2] is what the model made of their `places`, `height` and
    `width` the image's own.

    The crops' tokens are one grid, each row closed by a newline; a token belongs to the crop in
    which its centre lies.
    """
    down, across = grid(config, height, width)
    vision = config.vision_config
    side = vit.side(vision)
    packed = packed.round(decimals=6)  # interpolation leaves dust
    newline = packed[:, 0] < 0
    thumbnail, crops = packed[: side**2], packed[side**2 :].view(int(newline.sum()), -1, 2)
    y, x = crops[:, 0, 0], crops[0, :-1, 1]
    above, left = ((axis + 0.5).floor().long() // side for axis in (y, x))
    scale = min(down * vision.image_size / height, across * vision.image_size / width)
    rows, columns = (
        _spans(vision, y, above, down, height * scale),
        _spans(vision, x, left, across, width * scale),
    )
    tiles = [Tile(side, side, "thumbnail", region=whole(vision))]
    for (high, top, bottom), (number, (wide, start, end)) in product(rows, enumerate(columns)):
        if high and wide:
            tiles.append(
                Tile(
                    high,
                    wide,
                    "crop",
                    newlines=number == int(left[-1]),
                    region=(start, top, end, bottom),
                )
            )
        else:  # nothing but padding
            tiles.append(Tile(0, 0, "crop", region=None))

    left = torch.cat([left, left[-1:]])  # a newline belongs to the crop on its left
    tile = 1 + above[:, None] * across + left
    row = torch.arange(len(above)) - torch.searchsorted(above, above)
    column = torch.arange(len(left)) - torch.searchsorted(left, left)
    where = torch.stack([tile, row[:, None].expand_as(tile), column.expand_as(tile)], dim=2).view(
        -1, 3
    )
    where = torch.cat([torch.cat([torch.zeros(side**2, 1), thumbnail], dim=1).long(), where])
    patches = neighbours(packed, side, across)
    patches[side**2 :] += side**2
    patches[newline] = -1
    return View(Layout(tuple(tiles), where), patches, len(tiles))


def neighbours(places: Tensor, side: int, across: int) -> Tensor:
    """[n, 4] the patches that the `places` [n, 2] lie between, counted crop by crop; [n, 1] where
    each lies on one.
    """
    low, high = places.floor().long(), places.ceil().long()
    row = torch.stack([low[:, 0], low[:, 0], high[:, 0], high[:, 0]], dim=1)
    column = torch.stack([low[:, 1], high[:, 1], low[:, 1], high[:, 1]], dim=1)
    patches: Tensor = (
        (row // side * across + column // side) * side**2 + row % side * side + column % side
    )
    return patches[:, :1] if torch.equal(low, high) else patches


def whole(vision_config: Any) -> Region:
    """What the patches cover of an image that fills its crop: not a last strip that is narrower
    than a patch.
    """
    covered = vit.side(vision_config) * vision_config.patch_size / vision_config.image_size
    return (0.0, 0.0, covered, covered)


def layout(views: Sequence[View]) -> Layout:
    """The layout of one prompt, whose images and videos count in its order."""
    tiles: list[Tile] = []
    found = [torch.empty(0, 3, dtype=torch.int64)]
    for image, view in enumerate(views):
        one = view.layout
        found.append(torch.stack([one.tile + len(tiles), one.row, one.column], dim=1))
        tiles += [replace(tile, image=image) for tile in one.tiles]
    return Layout(tuple(tiles), torch.cat(found))


def encoder_rows(batch: Sequence[Sequence[View]], patches: int, cls: bool) -> list[EncoderRows]:
    """Per prompt, its tokens' rows; every sequence has `patches` of them, behind a CLS token where
    `cls`.
    """
    length = patches + cls
    at = {False: 0, True: sum(view.crops for views in batch for view in views if not view.video)}
    rows = []
    for views in batch:
        found = [torch.empty(0, 1, dtype=torch.int64)]
        firsts = [torch.empty(0, dtype=torch.int64)]
        for view in views:
            crop = at[view.video] + view.patches // patches
            found.append(
                torch.where(view.patches < 0, -1, crop * length + cls + view.patches % patches)
            )
            firsts.append((at[view.video] + torch.arange(view.crops)) * length)
            at[view.video] += view.crops
        most = max(one.shape[1] for one in found)
        same = [one.expand(-1, most) if one.shape[1] == 1 else one for one in found]
        rows.append(EncoderRows(torch.cat(same), torch.cat(firsts) if cls else None))
    return rows


def taken(images: Iterator[View], count: int) -> list[View]:
    """The next images, whose tokens are `count` together; raises ValueError where they are not."""
    found = []
    while count > 0:
        image = next(images, None)
        if image is None or len(image.layout) > count:
            raise ValueError(
                f"{count} visual tokens of the prompt are left over, which image_sizes do not add up to"
            )
        found.append(image)
        count -= len(image.layout)
    return found


def _spans(
    vision_config: Any, places: Tensor, crop: Tensor, crops: int, shown: float
) -> list[tuple[int, float, float]]:
    """For each of `crops` crops in a row or column, how many tokens it has there and from where to
    where these reach.

    `places` are the tokens' in patches, `crop` says which each is in; the answer is in shares of
    the image's side, which is `shown` pixels long and lies in the middle of the crops.
    """
    size, side = vision_config.image_size, vit.side(vision_config)
    apart = float(places[-1] - places[0]) / (len(places) - 1) if len(places) > 1 else 1.0
    padding = (crops * size - shown) / 2
    spans = []
    for number in range(crops):
        mine = places[crop == number]
        edges = (
            (float(mine[0]) + 0.5 - apart / 2, float(mine[-1]) + 0.5 + apart / 2)
            if len(mine)
            else (0.0, 0.0)
        )
        start, end = (
            number * size + (edge - number * side) * vision_config.patch_size for edge in edges
        )
        spans.append((len(mine), (start - padding) / shown, (end - padding) / shown))
    return spans
