"""Selection helpers: deterministic top-k, shares with and without limits, regular windows, maps
brought to tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from prunebench.tokens import Layout, VisualTokens


def top(scores: Tensor, count: int) -> Tensor:
    """[count] places of the highest of `scores` [N], best first; ties go to the lower place, on
    every device.

    Raises ValueError for NaN, which has no place in an order.
    """
    count_nan = int(scores.isnan().sum())
    if count_nan:
        raise ValueError(f"{count_nan} of {scores.numel()} scores are NaN, which cannot be ranked")
    return torch.sort(scores.float(), descending=True, stable=True).indices[:count]


def require_finite(values: Tensor, name: str) -> None:
    """Raise ValueError, saying how many, where `values` of any shape hold NaN or infinity: no
    method may choose by those.
    """
    bad = int((~values.isfinite()).sum())
    if bad:
        raise ValueError(
            f"{bad} of {values.numel()} values of the {name} are not finite, so nothing can be chosen by them"
        )


def share(total: int, weights: Tensor) -> list[int]:
    """Split `total` into whole parts proportional to `weights` [T] by largest remainder (ties:
    first); sums to `total`.

    Raises ValueError for weights that are negative, not finite or all zero.
    """
    values = _weighed(weights)
    if values.sum() <= 0:
        raise ValueError(f"weights {values.tolist()} cannot be shared: they must not all be 0")
    exact = total * values / values.sum()
    parts = exact.floor().long()
    for i in top(exact - parts, total - int(parts.sum())).tolist():
        parts[i] += 1
    return [int(p) for p in parts]


def fill(total: int, weights: Tensor, limits: Tensor) -> list[int]:
    """`share`, where no part may exceed its limit [T]: what overflows is shared among the others by
    their weights.

    Parts of weight 0 get something only when all others are full. Sums to `total`, or to all limits
    where they are less. Raises ValueError for weights that are negative or not finite.
    """
    values, limits = _weighed(weights), limits.cpu()
    left = min(total, int(limits.sum()))
    parts, open_ = torch.zeros_like(limits), limits > 0
    while left > 0:
        wanted = torch.where(open_, values, 0.0)
        wanted = wanted if wanted.sum() > 0 else open_.double()
        full = open_ & (left * wanted / wanted.sum() >= limits)
        if not full.any():
            # rounded once, when nothing overflows any more: rounding in every round adds up
            parts += torch.tensor(share(left, wanted))
            break
        parts[full] = limits[full]
        left -= int(limits[full].sum())
        open_ = open_ & ~full
    return [int(p) for p in parts]


def pooled(layout: Layout, maps: Sequence[Tensor]) -> Tensor:
    """[N] the average of a per-pixel map over what each token shows; 0 for newlines and padding.

    `maps` has one [F, H, W] an image or video, F frames (1 for an image), of any resolution. Of a
    video, a token that stands for several frames gets their average. Raises ValueError where an
    image has no map, or a tile no known place.
    """
    found = torch.zeros(len(layout))
    frames = {tile.image: 0 for tile in layout.tiles}
    for tile in layout.tiles:
        frames[tile.image] = max(frames[tile.image], tile.frame + 1)
    if frames and max(frames) >= len(maps):
        raise ValueError(f"{len(maps)} maps for {max(frames) + 1} images")
    for number, tile in enumerate(layout.tiles):
        if tile.rows * tile.columns == 0:
            continue
        if tile.region is None:
            raise ValueError(f"the place of tile {number}, a {tile.kind}, in its image is unknown")
        values = maps[tile.image].float()
        count, several = len(values), frames[tile.image]
        # models that merge pairs of frames show an odd one at the end twice
        even = count + (count + 1 == 2 * several)
        first = tile.frame * even // several
        shown = values[first : max(first + 1, (tile.frame + 1) * even // several)].mean(0).cpu()
        height, width = shown.shape
        left, top, right, bottom = tile.region
        down, across = (
            _edges(tile.rows, top, bottom, height),
            _edges(tile.columns, left, right, width),
        )
        # the integral of a map of pixels is linear between their edges, so that this is exact
        total = torch.nn.functional.pad(shown.double().cumsum(0).cumsum(1), (1, 0, 1, 0))
        sums = _between(_between(total, down).mT, across).mT.diff(dim=0).diff(dim=1)
        area = down.diff()[:, None] * across.diff()
        found[layout.grid(number)[:, : tile.columns]] = torch.where(
            area > 0, sums / area.clamp(min=1e-12), 0.0
        ).float()
    return found


def _weighed(weights: Tensor) -> Tensor:
    """[T] the weights in double precision on the CPU; raises ValueError for those that mean
    nothing.
    """
    values = weights.double().cpu()
    if not torch.isfinite(values).all() or (values < 0).any():
        raise ValueError(
            f"weights {values.tolist()} cannot be shared: they must be finite and >= 0"
        )
    return values


def _edges(cells: int, start: float, end: float, size: int) -> Tensor:
    """[cells + 1] edges in pixels of `cells` equal cells, cut off at the image's own."""
    return (torch.linspace(start, end, cells + 1, dtype=torch.float64) * size).clamp(0, size)


def _between(values: Tensor, places: Tensor) -> Tensor:
    """[len(places), W] rows of `values` [H, W] at fractional places."""
    low = places.floor().long().clamp(max=len(values) - 1)
    high = (low + 1).clamp(max=len(values) - 1)
    share = (places - low)[:, None]
    return values[low] * (1 - share) + values[high] * share


def windows(tokens: VisualTokens, count: int) -> list[Tensor]:
    """Cut the tiles into `count` windows, [h, w] places each; every tile gets its share by size, in
    bands of rows.

    Windows of about the tile's own shape cover it without overlap; a tile without a share has none.
    A newline token belongs to the window on its left but is no member of it, unless it stands
    alone. Raises ValueError where tokens have been dropped before.
    """
    if len(tokens) != len(tokens.layout):
        raise ValueError(
            f"windows need whole tiles, but {len(tokens)} of {len(tokens.layout)} visual tokens are alive"
        )
    found = []
    sizes = torch.tensor([len(tile) for tile in tokens.tiles])
    for number, (tile, part) in enumerate(zip(tokens.tiles, share(count, sizes), strict=True)):
        if part == 0:
            continue
        width = tile.columns + tile.newlines
        place = tokens.layout.grid(number)
        bands = min(
            tile.rows, part, max(-(-part // width), round((part * tile.rows / width) ** 0.5))
        )
        for i in range(bands):
            band = place[i * tile.rows // bands : (i + 1) * tile.rows // bands]
            pieces = (i + 1) * part // bands - i * part // bands
            for j in range(pieces):
                left, right = j * width // pieces, (j + 1) * width // pieces
                found.append(band[:, left : max(left + 1, min(right, tile.columns))])
    return found
