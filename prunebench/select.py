"""Selection helpers: deterministic top-k, shares with and without limits, regular windows, maps
brought to tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import pad

from prunebench.tokens import Layout, Region, VisualTokens


def top(scores: Tensor, count: int) -> Tensor:
    """[count] places of the highest of `scores` [N], best first; ties go to the lower place, on
    every device.

    Raises ValueError for NaN, which has no place in an order.
    """
    unranked = int(scores.isnan().sum())
    if unranked:
        raise ValueError(f"{unranked} of {scores.numel()} scores are NaN, which cannot be ranked")
    # not topk, which breaks ties otherwise from device to device
    return torch.sort(scores.float(), descending=True, stable=True).indices[:count]


def top_of_each(scores: Tensor, groups: Sequence[Tensor], counts: Sequence[int]) -> Tensor:
    """The places of the highest `scores` [N] in every group of places, as many as its count; group
    after group, best first.
    """
    kept = []
    for places, count in zip(groups, counts, strict=True):
        own = places.to(scores.device)
        kept.append(own[top(scores[own], count)])
    return torch.cat(kept)


def tile_places(tokens: VisualTokens, newlines: bool = True) -> list[Tensor]:
    """Per tile, the places of its live tokens, on the device of their features; without `newlines`
    those of patches alone.
    """
    device = tokens.features.device
    return [places.to(device) for places in places_on_cpu(tokens, newlines)]


def places_on_cpu(tokens: VisualTokens, newlines: bool = True) -> list[Tensor]:
    """The same on the CPU, where the layout is, whatever device the features are on."""
    eligible = torch.ones_like(tokens.newline) if newlines else ~tokens.newline
    places = []
    for number in range(len(tokens.tiles)):
        is_member = (tokens.tile == number) & eligible
        places.append(is_member.nonzero()[:, 0])
    return places


def require_finite(values: Tensor, name: str) -> None:
    """Raise ValueError, saying how many, where `values` of any shape hold NaN or infinity: no
    method may choose by those.
    """
    if values.sum().isfinite():
        # no sum of anything else is, and it is read once
        return
    bad = int((~values.isfinite()).sum())
    if bad:
        raise ValueError(
            f"{bad} of {values.numel()} values of the {name} are not finite, "
            "so nothing can be chosen by them"
        )


def share(total: int, weights: Tensor) -> list[int]:
    """Split `total` into whole parts that sum to it, proportional to `weights` [T].

    Every part is rounded down, and what is left goes, one each, to the largest remainders; of equal
    ones to the first. Raises ValueError for weights that are negative, not finite or all zero.
    """
    values = _weighed(weights)
    if values.sum() <= 0:
        raise ValueError(f"weights {values.tolist()} cannot be shared: they must not all be 0")
    exact = total * values / values.sum()
    parts = exact.floor().long()
    missing = total - int(parts.sum())
    parts[top(exact - parts, missing)] += 1
    return [int(part) for part in parts]


def fill(total: int, weights: Tensor, limits: Tensor) -> list[int]:
    """`share`, where no part may exceed its limit [T]: what overflows is shared among the others by
    their weights.

    Parts of weight 0 get something only when all others are full. Sums to `total`, or to all limits
    where they are less. Raises ValueError for weights that are negative or not finite.
    """
    values, limits = _weighed(weights), limits.cpu()
    left = min(total, int(limits.sum()))
    parts = torch.zeros_like(limits)
    has_room = limits > 0
    while left > 0:
        claims = torch.where(has_room, values, 0.0)
        if claims.sum() == 0:
            # only parts of weight 0 have room left
            claims = has_room.double()
        overflows = has_room & (left * claims / claims.sum() >= limits)
        if not overflows.any():
            # rounded once, when nothing overflows any more: rounding in every round adds up
            parts += torch.tensor(share(left, claims))
            break
        parts[overflows] = limits[overflows]
        left -= int(limits[overflows].sum())
        has_room = has_room & ~overflows
    return [int(part) for part in parts]


def pooled(layout: Layout, maps: Sequence[Tensor]) -> Tensor:
    """[N] the average of a per-pixel map over what each token shows; 0 for newlines and padding.

    `maps` has one [F, H, W] an image or video, F frames (1 for an image), of any resolution; with
    [F, H, W, P] it is [N, P]. Of a video, a token that stands for several frames gets their
    average. Raises ValueError where an image has no map, or a tile no known place.
    """
    channels = maps[0].shape[3:] if maps else ()
    averages = torch.zeros(len(layout), *channels)
    frames = frame_counts(layout)
    if frames and max(frames) >= len(maps):
        raise ValueError(f"{len(maps)} maps for {max(frames) + 1} images")
    for number, tile in enumerate(layout.tiles):
        if tile.rows * tile.columns == 0:
            continue
        if tile.region is None:
            raise ValueError(f"the place of tile {number}, a {tile.kind}, in its image is unknown")
        values = maps[tile.image].float()
        stretch = frames_shown(len(values), tile.frame, frames[tile.image])
        picture = values[stretch].mean(0).cpu()
        cells = _cell_means(picture, tile.rows, tile.columns, tile.region)
        patches = layout.grid(number)[:, : tile.columns]
        averages[patches] = cells.float()
    return averages


def frame_counts(layout: Layout) -> dict[int, int]:
    """By image, how many frames the model sees of it."""
    counts: dict[int, int] = {}
    for tile in layout.tiles:
        before = counts.get(tile.image, 0)
        counts[tile.image] = max(before, tile.frame + 1)
    return counts


def frames_shown(count: int, frame: int, frames: int) -> slice:
    """Those of a video's `count` frames that the model's `frame` of `frames` stands for."""
    # models that merge pairs of frames show an odd one at the end twice
    is_odd = count + 1 == 2 * frames
    even = count + 1 if is_odd else count
    first = frame * even // frames
    end = (frame + 1) * even // frames
    return slice(first, max(first + 1, end))


def _cell_means(picture: Tensor, rows: int, columns: int, region: Region) -> Tensor:
    """[rows, columns] the average of `picture` [H, W] over the cells of a grid on `region`, with
    [H, W, P] of every channel; 0 where a cell lies outside the image.
    """
    left, top, right, bottom = region
    height, width = picture.shape[:2]
    down = _edges(rows, top, bottom, height)
    across = _edges(columns, left, right, width)
    # the integral of a map of pixels is linear between their edges, so that this is exact
    channels = picture.dim() - 2
    integral = pad(picture.double().cumsum(0).cumsum(1), (0, 0) * channels + (1, 0, 1, 0))
    corners = _between(_between(integral, down).transpose(0, 1), across).transpose(0, 1)
    sums = corners.diff(dim=0).diff(dim=1)
    area = (down.diff()[:, None] * across.diff()).view(rows, columns, *[1] * channels)
    # clamped, because `where` works out both sides
    means = torch.where(area > 0, sums / area.clamp(min=1e-12), 0.0)
    # differences of sums may lie a hair beyond what is averaged
    least = picture.double().amin((0, 1)).clamp(max=0)
    most = picture.double().amax((0, 1)).clamp(min=0)
    return torch.minimum(torch.maximum(means, least), most)


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
    shares = torch.linspace(start, end, cells + 1, dtype=torch.float64)
    return (shares * size).clamp(0, size)


def _between(values: Tensor, places: Tensor) -> Tensor:
    """[len(places), W, ..] rows of `values` [H, W, ..] at fractional places."""
    low = places.floor().long().clamp(max=len(values) - 1)
    # the last edge lies on the last row, behind which there is none
    high = (low + 1).clamp(max=len(values) - 1)
    share = (places - low).view(-1, *[1] * (values.dim() - 1))
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
            f"windows need whole tiles, "
            f"but {len(tokens)} of {len(tokens.layout)} visual tokens are alive"
        )
    sizes = torch.tensor([len(tile) for tile in tokens.tiles])
    cut_windows: list[Tensor] = []
    for number, count_of_tile in enumerate(share(count, sizes)):
        if count_of_tile > 0:
            cut_windows += _windows_of(tokens.layout, number, count_of_tile)
    return cut_windows


def _windows_of(layout: Layout, number: int, count: int) -> Iterator[Tensor]:
    """Cut one tile into that many windows: bands of rows, each into pieces of about equal width."""
    tile = layout.tiles[number]
    place = layout.grid(number)
    width = tile.columns + tile.newlines
    # as many bands as make the windows about as wide for their height as the tile is, and enough
    # that no piece is narrower than a token
    shapely = round((count * tile.rows / width) ** 0.5)
    enough = -(-count // width)
    bands = min(tile.rows, count, max(enough, shapely))
    rows = _cuts(tile.rows, bands)
    pieces = _cuts(count, bands)
    for (upper, lower), (first, end) in zip(rows, pieces, strict=True):
        band = place[upper:lower]
        for left, right in _cuts(width, end - first):
            # a window of the newline alone is the newline
            right = max(left + 1, min(right, tile.columns))
            yield band[:, left:right]


def _cuts(length: int, parts: int) -> list[tuple[int, int]]:
    """Where `parts` parts of about equal length begin and end."""
    edges = [part * length // parts for part in range(parts + 1)]
    return list(pairwise(edges))
