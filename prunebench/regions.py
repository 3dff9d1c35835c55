"""Regions: equal parts of a picture, for methods made for crops on models that take none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from prunebench.tokens import Layout, Tile, VisualTokens

REGIONS_PORT = "equal parts of the picture in place of crops, their mean in place of a thumbnail"
"""What a method says of itself where it works on regions."""


def in_regions(tokens: VisualTokens, count: int) -> VisualTokens:
    """The tokens as if every image came as `count` x `count` crops and no thumbnail; with 1 as they
    are.

    Smaller grids come as as many as they have rows and columns; a row's newline goes with its last
    patch. Frames of a video stay whole.
    """
    return tokens if count <= 1 else replace(tokens, layout=regions_of(tokens.layout, count))


def regions_of(layout: Layout, count: int) -> Layout:
    """The same of a layout."""
    if count <= 1:
        return layout
    tiles: list[Tile] = []
    places = torch.stack([layout.tile, layout.row, layout.column], dim=1)
    for number, tile in enumerate(layout.tiles):
        members = (layout.tile == number).nonzero()[:, 0]
        parts = count if tile.kind == "image" else 1
        down, across = _edges(tile.rows, parts), _edges(tile.columns, parts)
        row, column = layout.row[members], layout.column[members]
        # without the outer edges: a newline stands beyond the last of them
        line = torch.searchsorted(down[1:-1].contiguous(), row, right=True)
        place = torch.searchsorted(across[1:-1].contiguous(), column, right=True)
        part = line * (len(across) - 1) + place
        inside = [len(tiles) + part, row - down[line], column - across[place]]
        places[members] = torch.stack(inside, dim=1)
        tiles += [tile] if parts == 1 else _parts(tile, down, across)
    return Layout(tuple(tiles), places)


def _edges(length: int, parts: int) -> Tensor:
    """[parts + 1] where equal parts of a side begin and end; no part is empty but of an empty
    side.
    """
    count = max(1, min(parts, length))
    return torch.arange(count + 1) * length // count


def _parts(tile: Tile, down: Tensor, across: Tensor) -> Iterator[Tile]:
    """The parts of a tile, row by row."""
    rows, columns = down.tolist(), across.tolist()
    for line in range(len(rows) - 1):
        for place in range(len(columns) - 1):
            upper, lower = rows[line : line + 2]
            left, right = columns[place : place + 2]
            region = tile.region
            if region is not None:
                width = (region[2] - region[0]) / max(1, tile.columns)
                height = (region[3] - region[1]) / max(1, tile.rows)
                region = (
                    region[0] + left * width,
                    region[1] + upper * height,
                    region[0] + right * width,
                    region[1] + lower * height,
                )
            yield replace(
                tile,
                rows=lower - upper,
                columns=right - left,
                kind="crop",
                newlines=tile.newlines and place == len(columns) - 2,
                region=region,
            )
