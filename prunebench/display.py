"""Display: a trace as text, as a table, and as kept tokens drawn over the image.

Everything here takes plain values: rows, masks, pictures. pandas, pillow and matplotlib are
imported when they are asked for, so that pruning alone needs none of them.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from prunebench.border.text import percent
from prunebench.tokens import Layout, Region, Tile

if TYPE_CHECKING:
    import pandas as pd
    from numpy import bool_
    from numpy.typing import NDArray
    from PIL import Image

NEEDS_EXTRA = "is not installed: pip install 'prunebench[eval]'"

PLAIN = (236, 236, 236)
"""The colour of a canvas that stands for an image nobody gave."""

CELL = 24
"""Pixels of a token's side on such a canvas."""

MOST_PICTURES = 4
"""Samples that a notebook shows unasked; each is a picture in the page."""


@dataclass(frozen=True)
class StageRow:
    """One stage of one sample; a sample that was not pruned has one row, whose `site` is empty.

    `available` are the sample's original visual tokens, `entered` those that reached the stage,
    `kept` those it let through, `share` the kept ones over the available. The rest is the whole
    sample's, the same in each of its rows: `text` tokens; what was spent, by kind of budget;
    selector FLOPs, None where nobody counted; bytes of its keys and values; notes.
    """

    sample: int
    stage: int
    site: str
    available: int
    entered: int
    kept: int
    share: float
    text: int
    tokens_mean: float
    tokens_input: float
    tokens_kv: float
    selector_flops: int | None
    kv_bytes: int
    notes: str


def sample_line(rows: Sequence[StageRow]) -> str:
    """One sample in a line: what there was, what each stage kept, what was spent."""
    first = rows[0]
    begin = f"{first.available} visual and {first.text} text tokens"
    if not first.site:
        return f"{begin}, nothing pruned"
    stages = [f"{row.site} keeps {row.kept} ({percent(row.share)})" for row in rows]
    spent = f"{first.tokens_mean:.1f} in a layer and {first.tokens_kv:.1f} in a cache on average"
    notes = f"; {first.notes}" if first.notes else ""
    return f"{begin}; {', '.join(stages)}; {spent}{notes}"


def frame(rows: Sequence[StageRow]) -> pd.DataFrame:
    """A table with a row a stage of a sample, its columns the fields of StageRow."""
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError(f"a table needs pandas, which {NEEDS_EXTRA}") from error
    columns = [field.name for field in fields(StageRow)]
    return pd.DataFrame([asdict(row) for row in rows], columns=columns)


def html(title: str, rows: Sequence[StageRow], pictures: Mapping[int, bytes]) -> str:
    """The rows as an HTML table under a title; `pictures` are PNGs by their sample's number."""
    head = ""
    for name in ("sample", "site", "available", "entered", "kept", "share", "tokens_mean"):
        head += f"<th>{name}</th>"
    body = ""
    for row in rows:
        site = escape(row.site) or "not pruned"
        body += f"<tr><td>{row.sample}</td><td>{site}</td><td>{row.available}</td>"
        body += f"<td>{row.entered}</td><td>{row.kept}</td><td>{percent(row.share)}</td>"
        body += f"<td>{row.tokens_mean:.1f}</td></tr>"
    drawings = ""
    for sample, content in pictures.items():
        # inside the page, so that a notebook can be sent to somebody as one file
        source = f"data:image/png;base64,{base64.b64encode(content).decode()}"
        drawings += f'<img src="{source}" alt="kept tokens of sample {sample}" width="640"><br>'
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f"<div><b>{escape(title)}</b>{table}{drawings}</div>"


@dataclass(frozen=True)
class Mask:
    """Which tokens of one picture are alive after one stage: what a panel of a drawing shows.

    `cells` [rows, columns] is True where a token is kept; `region` is the part of the image that
    the cells cover, as in Tile, None where the model's inputs do not tell.
    """

    cells: NDArray[bool_]
    region: Region | None


def mask(layout: Layout, kept: Tensor, number: int = 0) -> Mask:
    """The tokens of one picture, of which those in `kept` [K] (original visual indices) are alive.

    `number` counts the prompt's images and frames from 0. An image that comes as a thumbnail and
    crops is shown by its crops, stitched together. Raises ValueError where there is no such
    picture, or where the crops' places in it are not known.
    """
    alive = torch.zeros(len(layout), dtype=torch.bool)
    alive[kept] = True
    numbers = _tiles_of(layout, number)
    parts = []
    for index in numbers:
        # the column behind the last may be newline tokens, which show nothing of the image
        tokens = layout.grid(index)[:, : layout.tiles[index].columns]
        parts.append(alive[tokens])
    if len(numbers) == 1:
        cells: NDArray[bool_] = parts[0].numpy()
        return Mask(cells, layout.tiles[numbers[0]].region)
    regions = [_region_of(layout.tiles[index]) for index in numbers]
    return _stitched(parts, regions)


def _stitched(parts: Sequence[Tensor], regions: Sequence[Region]) -> Mask:
    """Crops of one size, each [rows, columns], put together by the regions they cover."""
    whole = _around(regions)
    corners = []
    for part, (left, top, right, bottom) in zip(parts, regions, strict=True):
        rows, columns = part.shape
        # crops are of one size, so that any of them says how large a cell is
        cell_height = (bottom - top) / rows
        cell_width = (right - left) / columns
        row = round((top - whole[1]) / cell_height)
        column = round((left - whole[0]) / cell_width)
        corners.append((row, column))
    height = max(row + len(part) for (row, _), part in zip(corners, parts, strict=True))
    width = max(column + part.shape[1] for (_, column), part in zip(corners, parts, strict=True))
    canvas = torch.zeros(height, width, dtype=torch.bool)
    for (row, column), part in zip(corners, parts, strict=True):
        canvas[row : row + part.shape[0], column : column + part.shape[1]] = part
    return Mask(canvas.numpy(), whole)


def drawing(
    stages: Mapping[str, Mask], image: Image.Image | str | Path | None, title: str
) -> Image.Image:
    """What the model saw of the image, and beside it one panel a stage in which dropped tokens are
    dark.

    `stages` are masks of one picture by caption. Without an image the panels show the bare grid of
    tokens. Raises ValueError where it is not known which part of the image the tokens cover.
    """
    try:
        from PIL import Image

        from prunebench.report import overlay
    except ImportError as error:
        raise ImportError(f"a drawing needs {error.name}, which {NEEDS_EXTRA}") from error
    first = next(iter(stages.values()))
    grids = [mask.cells for mask in stages.values()]
    if image is None:
        rows, columns = first.cells.shape
        canvas = Image.new("RGB", (columns * CELL, rows * CELL), PLAIN)
        return overlay.drawing([overlay.Strip(canvas, grids, list(stages))], title)
    picture = image if isinstance(image, Image.Image) else Image.open(image)
    canvas = part_of(picture, first.region)
    strips = [overlay.Strip(canvas), overlay.Strip(canvas, grids, list(stages))]
    return overlay.drawing(strips, title)


def part_of(image: Image.Image, region: Region | None) -> Image.Image:
    """The region of an image; what lies outside the image, because it was padded, is black.

    Raises ValueError where it is not known which part of the image the tokens cover.
    """
    if region is None:
        raise ValueError(
            "which part of the image the tokens cover is not known from the model's inputs alone; "
            "give prune(..., layouts=...), or show the bare grid without an image"
        )
    return image.convert("RGB").crop(pixels_of(image, region))


def pixels_of(image: Image.Image, region: Region) -> tuple[int, int, int, int]:
    """A region in whole pixels of an image: left, top, right and bottom."""
    left, top, right, bottom = region
    return (
        round(left * image.width),
        round(top * image.height),
        round(right * image.width),
        round(bottom * image.height),
    )


def png(image: Image.Image) -> bytes:
    """The image as a PNG file's content."""
    content = io.BytesIO()
    image.save(content, format="PNG")
    return content.getvalue()


def _tiles_of(layout: Layout, number: int) -> list[int]:
    """The tiles that show picture `number`: its crops where it has any, its one tile else."""
    groups: dict[tuple[bool, int, int], list[int]] = {}
    for index, tile in enumerate(layout.tiles):
        if tile.rows == 0 or tile.columns == 0:
            continue  # a newline that stands alone shows nothing
        # images and videos are counted each by themselves, so that two may bear one number
        picture = (tile.kind == "frame", tile.image, tile.frame)
        groups.setdefault(picture, []).append(index)
    pictures = list(groups.values())
    if not 0 <= number < len(pictures):
        raise ValueError(f"there is no picture {number}; this sample has {len(pictures)}, from 0")
    tiles = pictures[number]
    crops = [index for index in tiles if layout.tiles[index].kind == "crop"]
    return crops or tiles[:1]


def _region_of(tile: Tile) -> Region:
    if tile.region is None:
        raise ValueError(
            f"where in the image a {tile.kind} lies is not known from the model's inputs alone; "
            "give prune(..., layouts=...)"
        )
    return tile.region


def _around(regions: Sequence[Region]) -> Region:
    """The smallest region that holds all others."""
    lefts, tops, rights, bottoms = zip(*regions, strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)
