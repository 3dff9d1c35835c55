"""Overlay: an image with the kept tokens clear and the dropped ones dark, stage by stage and method
by method; what `prunebench show` draws.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from prunebench.border.text import percent
from prunebench.report import sheets, tables
from prunebench.study.cells import ReportError

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""

Mask = NDArray[np.bool_]
"""[rows, columns] of tokens: True for those that are kept."""

Edge = tuple[int, int, int, int]
"""A line from its first two numbers, x and y, to the other two."""

SIDE = (448, 960)
"""A panel's shorter side is at least the first, its longer at most the second."""

MOST_COLUMNS = 4
"""Pictures in a row of the sheet."""

SHADE = 0.26
"""How bright a dropped token is beside a kept one."""

HATCHING = 26.0
"""Brightness of the stripes over dropped tokens: they show on a black image, too."""

ACCENT = (255, 196, 0)
GRID_LINE = (255, 255, 255, 70)
BORDER_LINE = (255, 255, 255, 230)
BOX_SHADOW = (0, 0, 0, 200)


@dataclass(frozen=True)
class Strip:
    """What one method leaves of an image, side by side a stage: `masks` [rows, columns] say by True
    which tokens are kept, `captions` name the stages. None of them shows the image as it is.

    Above stand its `name` and the `answer` that came of it, marked where it is known whether that
    is `right`. `boxes` (left, top, right, bottom) in pixels of `image` outline the evidence.
    """

    image: Image.Image
    masks: Sequence[ArrayLike] = ()
    captions: Sequence[str] = ()
    name: str = ""
    answer: str = ""
    right: bool | None = None
    boxes: Sequence[Sequence[float]] = ()


def draw(strips: Sequence[Strip], path: Path, title: str) -> Path:
    """Write the drawing of the same arguments as a PNG; raises ReportError."""
    content = io.BytesIO()
    drawing(strips, title).save(content, format="PNG")
    return tables.write(path, content.getvalue())


def drawing(strips: Sequence[Strip], title: str) -> Image.Image:
    """The strips in reading order under a title, at most MOST_COLUMNS pictures in a row; dropped
    tokens are dark and hatched. Raises ReportError.
    """
    if not strips:
        raise ReportError("there is nothing to show: give a picture")
    # all panels are of one size, so that methods can be looked at across
    size = _size_of(strips[0].image)
    rows: list[list[sheets.Block]] = []
    for strip in strips:
        panels = _panels(strip, size)
        for start in range(0, len(panels), MOST_COLUMNS):
            part = panels[start : start + MOST_COLUMNS]
            block = sheets.Block(part, strip.name, strip.answer, strip.right)
            if not rows or sum(len(one.panels) for one in rows[-1]) + len(part) > MOST_COLUMNS:
                rows.append([])
            rows[-1].append(block)
    return sheets.sheet(rows, title)


def _panels(strip: Strip, size: tuple[int, int]) -> list[sheets.Panel]:
    """The pictures of a strip, each with what stands below it."""
    masks = [_mask(grid) for grid in strip.masks]
    names = list(strip.captions) or [""] * len(masks)
    if len(names) != len(masks):
        raise ReportError(f"{len(names)} captions for {len(masks)} grids; give one each")
    picture = strip.image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    scale = (size[0] / strip.image.width, size[1] / strip.image.height)
    outlines = [_box(box, scale) for box in strip.boxes]
    if not masks:
        whole = np.ones((1, 1), dtype=bool)
        return [sheets.Panel(_panel(picture, whole, outlines), "image")]
    panels = []
    for mask, name in zip(masks, names, strict=True):
        caption = f"{mask.sum()} of {mask.size} tokens ({percent(mask.mean())})"
        if mask.all():
            caption = f"all {mask.size} tokens"
        if name:
            caption = f"{name}: {caption}"
        panels.append(sheets.Panel(_panel(picture, mask, outlines), caption))
    return panels


def _mask(grid: ArrayLike) -> Mask:
    mask = np.asarray(grid)
    if mask.ndim != 2 or mask.dtype != bool or not mask.size:
        raise ReportError(
            f"a grid is a boolean array [rows, columns], got {mask.dtype} of shape {mask.shape}"
        )
    return mask


def _size_of(image: Image.Image) -> tuple[int, int]:
    """The size at which an image reads well; whole factors keep small images crisp."""
    least, most = SIDE
    factor: float = max(1, ceil(least / min(image.size)))
    # a fraction only where the longer side would be too long
    factor = min(factor, most / max(image.size))
    return max(1, round(image.width * factor)), max(1, round(image.height * factor))


def _box(box: Sequence[float], scale: tuple[float, float]) -> Box:
    """A box of the image in the pixels of the panel."""
    left, top, right, bottom = box
    x, y = scale
    return left * x, top * y, right * x, bottom * y


# ---- a panel -------------------------------------------------------------------------------------


def _panel(picture: Image.Image, kept: Mask, boxes: Sequence[Box]) -> Image.Image:
    """One picture with its dropped tokens shaded, the grid, an outline around what is kept, and the
    evidence boxes.
    """
    rows, columns = kept.shape
    xs = _ends(columns, picture.width)
    ys = _ends(rows, picture.height)
    shaded = Image.fromarray(_shade(np.asarray(picture), kept, xs, ys))
    # on a layer of their own: on an RGB image PIL draws half-transparent lines opaque
    layer = Image.new("RGBA", picture.size)
    pen = ImageDraw.Draw(layer)
    _draw_grid(pen, picture.size, xs, ys)
    for edge in _borders(kept, xs, ys):
        pen.line(edge, fill=BORDER_LINE, width=2)
    for box in boxes:
        _draw_box(pen, box)
    return Image.alpha_composite(shaded.convert("RGBA"), layer).convert("RGB")


def _ends(tokens: int, pixels: int) -> list[int]:
    """Where each of the tokens along a side begins, and where the last one ends."""
    # each from the whole length, so that roundings do not add up
    return [round(number * pixels / tokens) for number in range(tokens + 1)]


def _draw_grid(
    pen: ImageDraw.ImageDraw, size: tuple[int, int], xs: Sequence[int], ys: Sequence[int]
) -> None:
    """Lines between tokens."""
    width, height = size
    for x in xs[1:-1]:
        pen.line((x, 0, x, height), fill=GRID_LINE)
    for y in ys[1:-1]:
        pen.line((0, y, width, y), fill=GRID_LINE)


def _draw_box(pen: ImageDraw.ImageDraw, box: Box) -> None:
    """An outline of a box on a shadow, so that it is seen on any ground."""
    pen.rectangle(_grown(box, 3), outline=BOX_SHADOW, width=5)
    pen.rectangle(_grown(box, 2), outline=(*ACCENT, 255), width=3)


def _grown(box: Box, pixels: int) -> Box:
    left, top, right, bottom = box
    return left - pixels, top - pixels, right + pixels, bottom + pixels


def _shade(
    pixels: NDArray[np.uint8], kept: Mask, xs: Sequence[int], ys: Sequence[int]
) -> NDArray[np.uint8]:
    """[H, W, 3] dropped tokens dark, nearly grey and hatched; so a dark image still shows which are
    gone.
    """
    widths, heights = np.diff(xs), np.diff(ys)
    # [H, W] from [rows, columns]; tokens may differ by a pixel, so each is repeated its own size
    alive = kept.repeat(heights, axis=0).repeat(widths, axis=1)
    grey = pixels.mean(axis=2, keepdims=True)
    dark = SHADE * (0.35 * pixels + 0.65 * grey)
    # [H, W] diagonals, two pixels wide in every twelve
    rows, columns = np.indices(alive.shape)
    stripes = np.less((rows + columns) % 12, 2)
    dark = dark + HATCHING * stripes[..., None]
    shaded = np.where(alive[..., None], pixels, dark)
    result: NDArray[np.uint8] = shaded.clip(0, 255).astype(np.uint8)
    return result


def _borders(kept: Mask, xs: Sequence[int], ys: Sequence[int]) -> list[Edge]:
    """The edges between kept and dropped tokens."""
    edges = []
    # [rows, columns - 1]: column c against c + 1, which begins at xs[c + 1]
    beside = kept[:, 1:] != kept[:, :-1]
    for row, column in np.argwhere(beside).tolist():
        x = xs[column + 1]
        edges.append((x, ys[row], x, ys[row + 1]))
    below = kept[1:] != kept[:-1]
    for row, column in np.argwhere(below).tolist():
        y = ys[row + 1]
        edges.append((xs[column], y, xs[column + 1], y))
    return edges
