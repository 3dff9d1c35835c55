"""Evidence recall: which visual tokens show what the question is about, and how many of them a method keeps."""

from __future__ import annotations

import torch
from torch import Tensor

from prunebench.tokens import Layout, Tile

WHOLE_IMAGE = ("image", "thumbnail", "frame")
"""Kinds of tiles whose grid is stretched over the whole image."""

Box = tuple[float, float, float, float]


def evidence_mask(layout: Layout, box: Box, size: tuple[int, int], image: int = 0) -> Tensor:
    """[N] bool: the tokens of image number `image` whose cell lies at least half inside `box`.

    `box` is (left, top, right, bottom) in pixels of the original image, `size` that image's (width, height). Where no
    cell of a grid lies half inside, the cells that the box covers most stand for it, so that every grid shows it.

    Raises ValueError for a box outside the image, an image without tokens, and tiles whose place in the image is not
    known (crops).
    """
    left, top, right, bottom = box
    width, height = size
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise ValueError(f"evidence box {box} does not lie in an image of {width}x{height} pixels")
    mask = torch.zeros(len(layout), dtype=torch.bool)
    found = False
    for number, tile in enumerate(layout.tiles):
        if tile.image != image:
            continue
        if tile.kind not in WHOLE_IMAGE:
            known = ", ".join(WHOLE_IMAGE)
            raise ValueError(f"tile {number} is a {tile.kind}; evidence can be placed on tiles of kind {known} only")
        start = layout.start[number]
        mask[start : start + len(tile)] = _covered(tile, box, size)
        found = True
    if not found:
        raise ValueError(f"image {image} has no visual tokens; the layout's {len(layout.tiles)} tiles show others")
    return mask


def recall(kept: Tensor, mask: Tensor) -> float:
    """The share of the evidence tokens `mask` [N] among the `kept` [K] original visual indices.

    Raises ValueError for a mask without evidence.
    """
    evidence = int(mask.sum())
    if evidence == 0:
        raise ValueError(f"none of the {len(mask)} visual tokens is evidence, so there is nothing to recall")
    return int(mask[kept].sum()) / evidence


def _covered(tile: Tile, box: Box, size: tuple[int, int]) -> Tensor:
    """[rows * columns] bool in reading order; a newline token shows nothing of the image."""
    across = _overlap(tile.columns, size[0], box[0], box[2])
    down = _overlap(tile.rows, size[1], box[1], box[3])
    share = down[:, None] * across[None, :]
    tolerance = 1e-9  # a cell that is cut exactly in half counts, whatever the rounding
    inside = share >= 0.5 - tolerance
    if not inside.any():
        inside = share >= share.max() - tolerance
    if tile.newlines:
        inside = torch.cat([inside, torch.zeros(tile.rows, 1, dtype=torch.bool)], dim=1)
    return inside.flatten()


def _overlap(cells: int, length: int, low: float, high: float) -> Tensor:
    """[cells] share of every cell that lies in [low, high], where `length` pixels are cut into `cells` equal cells."""
    edges = torch.linspace(0, length, cells + 1, dtype=torch.float64)
    shared = edges[1:].clamp(max=high) - edges[:-1].clamp(min=low)
    return shared.clamp(min=0) * cells / length
