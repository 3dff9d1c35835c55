"""Show: an image with the kept tokens clear and the dropped ones dark, stage by stage."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

from prunebench.border.text import one_line
from prunebench.report import tables
from prunebench.study.cells import ReportError

Box = tuple[float, float, float, float]
SIDE = (448, 960)
"""A panel's shorter side is at least the first, its longer at most the second."""
GAP = 20
LEAST = 400
"""Pixels of the narrowest sheet; a title needs room."""

TITLE, CAPTION = 300, 160
"""Characters of a title and of a caption: questions and answers can be endless."""

SHADE = 0.26
INK = (38, 38, 38)
ACCENT = (255, 196, 0)


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
    kept = [_grid(grid) for grid in grids]
    names = list(captions) if captions is not None else [""] * len(kept)
    if len(names) != len(kept):
        raise ReportError(f"{len(names)} captions for {len(kept)} grids; give one each")
    picture, scale = _scaled(image.convert("RGB"))
    outlines = [_box(box, scale) for box in boxes or ()]
    panels = []
    if original:
        full = np.ones(kept[0].shape, dtype=bool) if kept else np.ones((1, 1), dtype=bool)
        panels.append((_panel(picture, full, outlines), "image"))
    for grid, name in zip(kept, names, strict=True):
        count = f"{grid.sum()} of {grid.size} tokens ({100 * grid.mean():.0f} %)"
        panels.append((_panel(picture, grid, outlines), f"{name}: {count}" if name else count))
    return _sheet(panels, title)


def _grid(grid: ArrayLike) -> NDArray[np.bool_]:
    found = np.asarray(grid)
    if found.ndim != 2 or found.dtype != bool or not found.size:
        raise ReportError(
            f"a grid is a boolean array [rows, columns], got {found.dtype} of shape {found.shape}"
        )
    return found


def _scaled(image: Image.Image) -> tuple[Image.Image, tuple[float, float]]:
    """The image at a size that reads well, and the scale in x and y; whole factors keep small
    images crisp.
    """
    low, high = SIDE
    factor: float = max(1, -(-low // min(image.size)))
    factor = min(factor, high / max(image.size))
    size = tuple(max(1, round(side * factor)) for side in image.size)
    scaled = image.resize((size[0], size[1]), Image.Resampling.LANCZOS)
    return scaled, (size[0] / image.width, size[1] / image.height)


def _box(box: Sequence[float], scale: tuple[float, float]) -> Box:
    left, top, right, bottom = box
    return left * scale[0], top * scale[1], right * scale[0], bottom * scale[1]


def _panel(picture: Image.Image, kept: NDArray[np.bool_], outlines: Sequence[Box]) -> Image.Image:
    """One picture with its dropped tokens shaded, the grid, an outline around what is kept, and the
    evidence boxes.
    """
    xs = [round(i * picture.width / kept.shape[1]) for i in range(kept.shape[1] + 1)]
    ys = [round(i * picture.height / kept.shape[0]) for i in range(kept.shape[0] + 1)]
    shaded = Image.fromarray(_shade(np.asarray(picture), kept, xs, ys))
    layer = Image.new("RGBA", picture.size)
    pen = ImageDraw.Draw(layer)
    for x in xs[1:-1]:
        pen.line((x, 0, x, picture.height), fill=(255, 255, 255, 70))
    for y in ys[1:-1]:
        pen.line((0, y, picture.width, y), fill=(255, 255, 255, 70))
    for line in _borders(kept, xs, ys):
        pen.line(line, fill=(255, 255, 255, 230), width=2)
    for left, top, right, bottom in outlines:
        pen.rectangle((left - 3, top - 3, right + 3, bottom + 3), outline=(0, 0, 0, 200), width=5)
        pen.rectangle((left - 2, top - 2, right + 2, bottom + 2), outline=(*ACCENT, 255), width=3)
    return Image.alpha_composite(shaded.convert("RGBA"), layer).convert("RGB")


def _shade(
    pixels: NDArray[np.uint8], kept: NDArray[np.bool_], xs: Sequence[int], ys: Sequence[int]
) -> NDArray[np.uint8]:
    """[H, W, 3] dropped tokens dark, nearly grey and hatched; so a dark image still shows which are
    gone.
    """
    alive = np.repeat(np.repeat(kept, np.diff(ys), axis=0), np.diff(xs), axis=1)[..., None]
    grey = pixels.mean(axis=2, keepdims=True)
    dark = SHADE * (0.35 * pixels + 0.65 * grey)
    rows, columns = np.indices(pixels.shape[:2])
    dark = dark + 26.0 * np.less((rows + columns) % 12, 2)[..., None]
    shaded: NDArray[np.uint8] = np.where(alive, pixels, dark).clip(0, 255).astype(np.uint8)
    return shaded


def _borders(
    kept: NDArray[np.bool_], xs: Sequence[int], ys: Sequence[int]
) -> list[tuple[int, int, int, int]]:
    """The edges between kept and dropped tokens."""
    upright = [
        (xs[c + 1], ys[r], xs[c + 1], ys[r + 1])
        for r, c in np.argwhere(kept[:, 1:] != kept[:, :-1]).tolist()
    ]
    level = [
        (xs[c], ys[r + 1], xs[c + 1], ys[r + 1])
        for r, c in np.argwhere(kept[1:] != kept[:-1]).tolist()
    ]
    return upright + level


def _sheet(panels: Sequence[tuple[Image.Image, str]], title: str) -> Image.Image:
    """Panels side by side under a title, each with its caption below."""
    if not panels:
        raise ReportError("there is nothing to show: give a grid or the original")
    width = panels[0][0].width
    total = len(panels) * width + (len(panels) + 1) * GAP
    total = max(total, LEAST)
    heading = _wrap(one_line(title, TITLE), _font(22, bold=True), total - 2 * GAP)
    captions = [
        _wrap(one_line(caption, CAPTION), _font(17), max(width, LEAST // 2))
        for _, caption in panels
    ]
    top = GAP + (28 * len(heading) + 8 if heading else 0)
    bottom = top + panels[0][0].height
    sheet = Image.new(
        "RGB", (total, bottom + 10 + 22 * max(map(len, captions)) + GAP // 2), "white"
    )
    pen = ImageDraw.Draw(sheet)
    pen.multiline_text(
        (GAP, GAP - 4), "\n".join(heading), font=_font(22, bold=True), fill=INK, spacing=5
    )
    for i, ((panel, _), lines) in enumerate(zip(panels, captions, strict=True)):
        left = GAP + i * (width + GAP)
        sheet.paste(panel, (left, top))
        pen.multiline_text(
            (left, bottom + 8), "\n".join(lines), font=_font(17), fill=INK, spacing=4
        )
    return sheet


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
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
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, size)
