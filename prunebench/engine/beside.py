"""Beside: what a CLIP makes of the pictures themselves, brought to tokens and tiles by their place;
for models whose own encoder is shown nothing that a CLIP could be.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from prunebench.engine.clip import Clip
from prunebench.engine.stream import EngineError
from prunebench.models.base import Unsupported
from prunebench.regions import regions_of
from prunebench.select import frame_counts, frames_shown, pooled
from prunebench.signals import Signal
from prunebench.tokens import Layout, Tile

AT_ONCE = 16
"""Pictures that CLIP sees together; a video has hundreds."""


@torch.no_grad()
def seen_by(
    clip: Clip,
    signals: frozenset[Signal],
    pictures: Sequence[Tensor],
    layout: Layout,
    regions: int = 1,
) -> dict[Signal, Tensor]:
    """CLIP's patches [N, P] and tiles [T, P] of a sample, those of `signals`, in float32.

    `pictures` are its images and videos, [F, H, W, 3] uint8 each. A token gets the average over
    what it shows of CLIP's patches of the whole picture, a tile the embedding of its part of the
    picture, where `regions` says into how many parts a side the tiles are cut before. What stands
    for several frames of a video gets their mean; newlines and padding get 0. Raises EngineError
    where an image has no picture, Unsupported where a tile's place in its picture is unknown.
    """
    _check(pictures, layout)
    values = {}
    if Signal.CLIP_PATCHES in signals:
        maps = [_patches(clip, picture) for picture in pictures]
        values[Signal.CLIP_PATCHES] = pooled(layout, maps).to(clip.model.device)
    if Signal.CLIP_TILES in signals:
        values[Signal.CLIP_TILES] = _tiles(clip, pictures, regions_of(layout, regions))
    return values


def _check(pictures: Sequence[Tensor], layout: Layout) -> None:
    """Raise for pictures that are missing, and for tiles whose place is unknown."""
    for number, tile in enumerate(layout.tiles):
        if tile.image >= len(pictures):
            raise EngineError(f"{len(pictures)} pictures for image {tile.image}, counted from 0")
        if tile.rows * tile.columns and tile.region is None:
            raise Unsupported(
                f"a CLIP beside the model cannot tell where tile {number}, a {tile.kind}, lies in "
                "its picture: prune(..., processor=...)"
            )


def _rows(clip: Clip, pictures: Sequence[Tensor] | Tensor) -> Tensor:
    """[C, 1 + patches, P] what CLIP makes of pictures [H, W, 3], the CLS token first."""
    rows = []
    for start in range(0, len(pictures), AT_ONCE):
        pixels = clip.pixels(list(pictures[start : start + AT_ONCE]))
        rows.append(clip.rows(pixels).unflatten(0, (len(pixels), -1)))
    joined: Tensor = torch.cat(rows).float()
    return joined


def _patches(clip: Clip, picture: Tensor) -> Tensor:
    """[F, side, side, P] CLIP's patches of a picture's frames, where they lie."""
    patches = _rows(clip, picture)[:, 1:]
    side = round(patches.shape[1] ** 0.5)
    square: Tensor = patches.unflatten(1, (side, side))
    return square


def _tiles(clip: Clip, pictures: Sequence[Tensor], layout: Layout) -> Tensor:
    """[T, P] CLIP's embeddings of what the tiles show; 0 for newlines that stand alone."""
    frames = frame_counts(layout)
    parts: list[Tensor] = []
    owners: list[int] = []
    for number, tile in enumerate(layout.tiles):
        if tile.rows * tile.columns == 0:
            continue
        picture = pictures[tile.image]
        stretch = frames_shown(len(picture), tile.frame, frames[tile.image])
        cuts = _cut(picture[stretch], tile)
        parts += cuts.unbind()
        owners += [number] * len(cuts)
    rows = _rows(clip, parts)[:, 0]
    places = torch.tensor(owners, device=rows.device)
    sums = rows.new_zeros(len(layout.tiles), rows.shape[1]).index_add(0, places, rows)
    counts = torch.bincount(places, minlength=len(sums)).clamp(min=1)
    return sums / counts[:, None]


def _cut(picture: Tensor, tile: Tile) -> Tensor:
    """[F, h, w, 3] the part of a picture that a tile shows, a pixel at least."""
    assert tile.region is not None
    height, width = picture.shape[1:3]
    left, upper, right, lower = tile.region
    first_row, end_row = _span(upper, lower, height)
    first_column, end_column = _span(left, right, width)
    return picture[:, first_row:end_row, first_column:end_column]


def _span(start: float, end: float, length: int) -> tuple[int, int]:
    """The first pixel of a side and the one behind the last."""
    first = min(max(0, round(start * length)), length - 1)
    return first, max(first + 1, min(length, round(end * length)))
