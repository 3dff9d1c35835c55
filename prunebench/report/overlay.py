"""Overlay: an image with the kept tokens clear and the dropped ones dark, stage by stage; what
`prunebench show` draws.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import ceil
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

from prunebench.border.text import one_line
from prunebench.report import tables
from prunebench.study.cells import ReportError

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""

Mask = NDArray[np.bool_]
"""[rows, columns] of tokens: True for those that are kept."""

Edge = tuple[int, int, int, int]
"""A line from its first two numbers, x and y, to the other two."""

SIDE = (448, 960)
"""A panel's shorter side is at least the first, its longer at most the second."""

GAP = 20
"""Pixels between panels, and around them."""

LEAST = 400
"""Pixels of the narrowest sheet; a title needs room."""

TITLE, CAPTION = 300, 160
"""Characters of a title and of a caption: questions and answers can be endless."""

TITLE_SIZE, CAPTION_SIZE = 22, 17
TITLE_HEIGHT, CAPTION_HEIGHT = 28, 22
"""Pixels of the letters, and of a line of them."""

SHADE = 0.26
"""How bright a dropped token is beside a kept one."""

HATCHING = 26.0
"""Brightness of the stripes over dropped tokens: they show on a black image, too."""

INK = (38, 38, 38)
ACCENT = (255, 196, 0)
GRID_LINE = (255, 255, 255, 70)
BORDER_LINE = (255, 255, 255, 230)
BOX_SHADOW = (0, 0, 0, 200)


@dataclass(frozen=True)
class Panel:
    """One picture of the sheet, and what stands below it."""

    image: Image.Image
    caption: str


def draw(
    image: Image.Image,
    grids: Sequence[ArrayLike],
    path: Path,
    title: str,
    boxes: Sequence[Sequence[float]] | None = None,
    captions: Sequence[str] | None = None,
    original: bool = True,
) -> Path:
    """Write the drawing of the same arguments as a PNG; raises ReportError."""
    sheet = drawing(image, grids, title, boxes, captions, original)
    content = io.BytesIO()
    sheet.save(content, format="PNG")
    return tables.write(path, content.getvalue())


def drawing(
    image: Image.Image,
    grids: Sequence[ArrayLike],
    title: str,
    boxes: Sequence[Sequence[float]] | None = None,
    captions: Sequence[str] | None = None,
    original: bool = True,
) -> Image.Image:
    """The image and, beside it, one panel per grid; dropped tokens are dark and hatched.

    Each of `grids` [rows, columns] says by True which tokens are kept, after one stage; `captions`
    name the stages, the counts are added. `boxes` (left, top, right, bottom) in pixels of `image`
    outline the evidence. Raises ReportError.
    """
    masks = [_mask(grid) for grid in grids]
    names = list(captions) if captions is not None else [""] * len(masks)
    if len(names) != len(masks):
        raise ReportError(f"{len(names)} captions for {len(masks)} grids; give one each")
    picture, scale = _scaled(image.convert("RGB"))
    outlines = [_box(box, scale) for box in boxes or ()]
    panels = []
    if original:
        # all tokens kept: the picture under the same grid lines as the stages
        shape = masks[0].shape if masks else (1, 1)
        everything = np.ones(shape, dtype=bool)
        panels.append(Panel(_panel(picture, everything, outlines), "image"))
    for mask, name in zip(masks, names, strict=True):
        caption = f"{mask.sum()} of {mask.size} tokens ({100 * mask.mean():.0f} %)"
        if name:
            caption = f"{name}: {caption}"
        panels.append(Panel(_panel(picture, mask, outlines), caption))
    return _sheet(panels, title)


def _mask(grid: ArrayLike) -> Mask:
    mask = np.asarray(grid)
    if mask.ndim != 2 or mask.dtype != bool or not mask.size:
        raise ReportError(
            f"a grid is a boolean array [rows, columns], got {mask.dtype} of shape {mask.shape}"
        )
    return mask


def _scaled(image: Image.Image) -> tuple[Image.Image, tuple[float, float]]:
    """The image at a size that reads well, and the scale in x and y; whole factors keep small
    images crisp.
    """
    least, most = SIDE
    factor: float = max(1, ceil(least / min(image.size)))
    # a fraction only where the longer side would be too long
    factor = min(factor, most / max(image.size))
    width = max(1, round(image.width * factor))
    height = max(1, round(image.height * factor))
    scaled = image.resize((width, height), Image.Resampling.LANCZOS)
    return scaled, (width / image.width, height / image.height)


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


# ---- the sheet -----------------------------------------------------------------------------------


def _sheet(panels: Sequence[Panel], title: str) -> Image.Image:
    """Panels side by side under a title, each with its caption below."""
    if not panels:
        raise ReportError("there is nothing to show: give a grid or the original")
    title_font = _font(TITLE_SIZE, bold=True)
    caption_font = _font(CAPTION_SIZE)
    # all panels are the same picture
    width, height = panels[0].image.size
    total = max(len(panels) * (width + GAP) + GAP, LEAST)
    heading = _wrap(one_line(title, TITLE), title_font, total - 2 * GAP)
    captions = []
    for panel in panels:
        text = one_line(panel.caption, CAPTION)
        captions.append(_wrap(text, caption_font, max(width, LEAST // 2)))
    top = GAP
    if heading:
        top += TITLE_HEIGHT * len(heading) + 8
    bottom = top + height
    most_lines = max(map(len, captions))
    end = bottom + 10 + CAPTION_HEIGHT * most_lines + GAP // 2
    sheet = Image.new("RGB", (total, end), "white")
    pen = ImageDraw.Draw(sheet)
    pen.multiline_text((GAP, GAP - 4), "\n".join(heading), font=title_font, fill=INK, spacing=5)
    left = GAP
    for panel, lines in zip(panels, captions, strict=True):
        sheet.paste(panel.image, (left, top))
        place = (left, bottom + 8)
        pen.multiline_text(place, "\n".join(lines), font=caption_font, fill=INK, spacing=4)
        left += width + GAP
    return sheet


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """The text in lines that fit."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines += _broken(word, font, width)
    return lines


def _broken(word: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """A word in parts that fit; most words are one part."""
    parts = [""]
    for letter in word:
        if parts[-1] and font.getlength(parts[-1] + letter) > width:
            parts.append("")
        parts[-1] += letter
    return parts


@cache
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """matplotlib brings a font along; systems do not agree on one."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(folder / name, size)
