"""Evidence recall: which visual tokens show what the question is about, and how many of them a
method keeps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from prunebench.tokens import Layout, Tile

Box = tuple[float, float, float, float]
TOLERANCE = 1e-9


def evidence_mask(
    layout: Layout, box: Box, size: tuple[int, int], image: int = 0, frame: int | None = None
) -> Tensor:
    """[N] bool: the tokens of image number `image` whose cell lies at least half inside `box`; with
    `frame`, those of that one of its frames.

    `box` is (left, top, right, bottom) in pixels of the original image, `size` that image's (width,
    height). Where no cell of a view lies half inside, the cells that the box covers most stand for
    it, so that every view shows it; the thumbnail is one view, all crops together another, each
    video frame one.

    Raises ValueError for a box outside the image, an image without tokens, and tiles whose place in
    the image is unknown.
    """
    left, top, right, bottom = box
    width, height = size
    inside_across = 0 <= left < right <= width
    inside_down = 0 <= top < bottom <= height
    if not (inside_across and inside_down):
        raise ValueError(f"evidence box {box} does not lie in an image of {width}x{height} pixels")
    mask = torch.zeros(len(layout), dtype=torch.bool)
    for tiles in _views(layout, image, frame):
        shares = {number: _shares(layout.tiles[number], number, box, size) for number in tiles}
        # over the whole view: the box may only touch one of its crops and lie in the next
        most = max(float(share.max()) for share in shares.values())
        if most == 0:
            continue  # the view does not reach this part of the image
        # where the box covers no cell by half, those that it covers most are taken
        # a cell that is cut exactly in half counts, whatever the rounding
        least = min(0.5, most) - TOLERANCE
        for number, share in shares.items():
            # a newline behind a row shows nothing
            columns = share.shape[1]
            places = layout.grid(number)[:, :columns]
            mask[places[share >= least]] = True
    return mask


def recall(kept: Tensor, mask: Tensor) -> float:
    """The share of the evidence tokens `mask` [N] among the `kept` [K] original visual indices.

    Raises ValueError for a mask without evidence.
    """
    evidence = int(mask.sum())
    if evidence == 0:
        raise ValueError(
            f"none of the {len(mask)} visual tokens is evidence, so there is nothing to recall"
        )
    return int(mask[kept].sum()) / evidence


def _views(layout: Layout, image: int, frame: int | None) -> list[list[int]]:
    """The numbers of an image's tiles, or of those of one frame, those of one view together; raises
    ValueError where it has none.
    """
    views: dict[tuple[str, int], list[int]] = {}
    for number, tile in enumerate(layout.tiles):
        is_asked = tile.image == image and frame in (None, tile.frame)
        if is_asked and tile.rows * tile.columns:
            views.setdefault((tile.kind, tile.frame), []).append(number)
    if not views:
        count = len(layout.tiles)
        raise ValueError(
            f"{_place(image, frame)} has no visual tokens; the layout's {count} tiles show others"
        )
    return list(views.values())


def _place(image: int, frame: int | None) -> str:
    return f"image {image}" if frame is None else f"frame {frame} of image {image}"


def _shares(tile: Tile, number: int, box: Box, size: tuple[int, int]) -> Tensor:
    """[rows, columns] how much of every cell the box covers."""
    if tile.region is None:
        raise ValueError(
            f"the place of tile {number}, a {tile.kind}, in its image is unknown; "
            "evidence cannot be placed on it"
        )
    left, top, right, bottom = tile.region
    width, height = size
    across = _overlap(tile.columns, left * width, right * width, box[0], box[2])
    down = _overlap(tile.rows, top * height, bottom * height, box[1], box[3])
    return down[:, None] * across[None, :]


def _overlap(cells: int, start: float, end: float, low: float, high: float) -> Tensor:
    """[cells] share of every cell that lies in [low, high], where start..end is cut into `cells`
    equal cells.
    """
    edges = torch.linspace(start, end, cells + 1, dtype=torch.float64)
    lefts, rights = edges[:-1], edges[1:]
    overlaps = rights.clamp(max=high) - lefts.clamp(min=low)
    return overlaps.clamp(min=0) * cells / (end - start)
