"""Tilewise: a budget handed out tile by tile to the patches of each, and which are padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from prunebench.select import places_on_cpu, share, tile_places
from prunebench.tokens import VisualTokens

Pick = Callable[[Tensor, int], Tensor]
"""(places [n], count) -> [count] of the places."""


def views(tokens: VisualTokens) -> list[list[int]]:
    """Images and video frames as the numbers of their tiles."""
    by_view: dict[tuple[int, int], list[int]] = {}
    for number, tile in enumerate(tokens.tiles):
        by_view.setdefault((tile.image, tile.frame), []).append(number)
    return list(by_view.values())


def view_places(tokens: VisualTokens) -> list[Tensor]:
    """Per image or video frame, the places of its live patches in reading order, on the device of
    their features.
    """
    of_tiles = places_on_cpu(tokens, newlines=False)
    groups = []
    for view in views(tokens):
        places = torch.cat([of_tiles[number] for number in view])
        groups.append(places.sort().values.to(tokens.features.device))
    return groups


def quotas(groups: Sequence[Tensor], count: int) -> list[int]:
    """How many of `count` tokens each group of places gets by its size, and no more than it has."""
    sizes = torch.tensor([len(places) for places in groups], dtype=torch.int64)
    total = int(sizes.sum())
    return share(min(count, total), sizes) if total else [0] * len(groups)


def pick_tiles(tokens: VisualTokens, count: int, pick: Pick) -> Tensor:
    """[count] places: what `pick` takes of every tile's patches, as many as the tile's share by
    size; tile after tile. See `pick_groups`.
    """
    return pick_groups(tokens, tile_places(tokens, newlines=False), count, pick)


def pick_groups(tokens: VisualTokens, groups: Sequence[Tensor], count: int, pick: Pick) -> Tensor:
    """[count] places: what `pick` takes of every group of patches, as many as the group's share by
    size; group after group.

    Newline tokens, which show nothing, come last: the first of them, where more may stay than there
    are patches.
    """
    kept = [torch.empty(0, dtype=torch.int64, device=tokens.features.device)]
    for places, quota in zip(groups, quotas(groups, count), strict=True):
        if quota > 0:
            kept.append(pick(places, quota))
    return with_newlines(tokens, torch.cat(kept), count)


def with_newlines(tokens: VisualTokens, places: Tensor, count: int) -> Tensor:
    """`places` [k] of patches, and behind them the first newline tokens up to `count` in all."""
    missing = count - len(places)
    if missing <= 0:
        return places
    newlines = tokens.newline.nonzero()[:, 0][:missing]
    return torch.cat([places, newlines.to(places.device)])


def padding(tokens: VisualTokens) -> Tensor:
    """[N] bool, on the CPU: whether a token's middle lies outside its image, in what pads it to a
    square or to whole crops; False for newlines and where the place of a tile is unknown.
    """
    is_padding = torch.zeros(len(tokens), dtype=torch.bool)
    for number, tile in enumerate(tokens.tiles):
        if tile.region is None:
            continue
        left, upper, right, lower = tile.region
        place = (tokens.tile == number) & ~tokens.newline
        x = left + (tokens.column[place] + 0.5) / max(1, tile.columns) * (right - left)
        y = upper + (tokens.row[place] + 0.5) / max(1, tile.rows) * (lower - upper)
        is_padding[place] = (x < 0) | (x > 1) | (y < 0) | (y > 1)
    return is_padding
