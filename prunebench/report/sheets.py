"""Sheets: pictures in rows on white, grouped under headings, each with its caption below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from prunebench.border.text import one_line
from prunebench.study.cells import ReportError

GAP = 20
"""Pixels between panels, and around them."""

LEAST = 400
"""Pixels of the narrowest sheet; a title needs room."""

NARROWEST = 200
"""Pixels of the narrowest column; so does what stands above and below a thin picture."""

TITLE, CAPTION = 300, 160
"""Characters of a title and of a caption: questions and answers can be endless."""

TITLE_SIZE, CAPTION_SIZE = 22, 17
TITLE_HEIGHT, CAPTION_HEIGHT = 28, 22
"""Pixels of the letters, and of a line of them."""

INK, RULE = (38, 38, 38), (200, 200, 200)
RIGHT, WRONG = (20, 110, 50), (178, 40, 30)
MARKS = {True: ("\N{CHECK MARK} right", RIGHT), False: ("\N{BALLOT X} wrong", WRONG)}
"""What is said of an answer, in words as well as by colour."""


@dataclass(frozen=True)
class Panel:
    """One picture of the sheet, and what stands below it."""

    image: Image.Image
    caption: str


@dataclass(frozen=True)
class Block:
    """Panels that belong together, and what stands above them: a name, and an answer that is right,
    wrong, or neither.
    """

    panels: Sequence[Panel]
    name: str = ""
    answer: str = ""
    right: bool | None = None


def sheet(rows: Sequence[Sequence[Block]], title: str) -> Image.Image:
    """The blocks row by row under a title; all panels are of one size. Raises ReportError where
    there is none.
    """
    if not rows or not rows[0]:
        raise ReportError("there is nothing to show: give a picture")
    columns = max(map(_columns, rows))
    width = max(columns * (_column_width(rows[0][0]) + GAP) + GAP, LEAST)
    parts = [_heading(title, width), *(_row(row, width) for row in rows)]
    whole = Image.new("RGB", (width, sum(part.height for part in parts) + GAP // 2), "white")
    top = 0
    for part in parts:
        whole.paste(part, (0, top))
        top += part.height
    return whole


def _columns(row: Sequence[Block]) -> int:
    """How many pictures stand in a row."""
    return sum(len(block.panels) for block in row)


def _column_width(block: Block) -> int:
    return max(block.panels[0].image.width, NARROWEST)


def _heading(title: str, width: int) -> Image.Image:
    """The title over the whole width."""
    font = _font(TITLE_SIZE, bold=True)
    lines = _wrap(one_line(title, TITLE), font, width - 2 * GAP)
    height = GAP + (TITLE_HEIGHT * len(lines) + 8 if lines else 0)
    part = Image.new("RGB", (width, height), "white")
    text = "\n".join(lines)
    ImageDraw.Draw(part).multiline_text((GAP, GAP - 4), text, font=font, fill=INK, spacing=5)
    return part


def _row(blocks: Sequence[Block], width: int) -> Image.Image:
    """Blocks side by side; their pictures stand on one line, whatever is said above them."""
    height, side = blocks[0].panels[0].image.height, _column_width(blocks[0])
    heads = [_head(block, len(block.panels) * (side + GAP) - GAP) for block in blocks]
    captions = []
    for block in blocks:
        captions += [_caption(panel, side) for panel in block.panels]
    top = max(len(lines) for lines in heads) * CAPTION_HEIGHT
    top += 12 if top else 0
    end = top + height + 8 + CAPTION_HEIGHT * max(map(len, captions)) + GAP
    part = Image.new("RGB", (width, end), "white")
    pen = ImageDraw.Draw(part)
    left, lines_left = GAP, iter(captions)
    for block, lines in zip(blocks, heads, strict=True):
        if lines:
            right = left + len(block.panels) * (side + GAP) - GAP
            pen.line((left, 1, right, 1), fill=RULE, width=2)
        for number, (text, colour, bold) in enumerate(lines):
            place = (left, 7 + number * CAPTION_HEIGHT)
            pen.text(place, text, font=_font(CAPTION_SIZE, bold), fill=colour)
        for panel in block.panels:
            part.paste(panel.image, (left, top))
            text = "\n".join(next(lines_left))
            place = (left, top + height + 6)
            pen.multiline_text(place, text, font=_font(CAPTION_SIZE), fill=INK, spacing=4)
            left += side + GAP
    return part


Line = tuple[str, tuple[int, int, int], bool]
"""Of a heading: its text, its colour, and whether it is bold."""


def _head(block: Block, width: int) -> list[Line]:
    """The lines above a block: its name, then the answer with its mark."""
    lines: list[Line] = []
    for text in _wrap(one_line(block.name, CAPTION), _font(CAPTION_SIZE, bold=True), width):
        lines.append((text, INK, True))
    words, colour = MARKS.get(block.right, ("", INK)) if block.right is not None else ("", INK)
    answer = f"{one_line(block.answer, CAPTION)} {words}".strip()
    for text in _wrap(answer, _font(CAPTION_SIZE), width):
        lines.append((text, colour, False))
    return lines


def _caption(panel: Panel, width: int) -> list[str]:
    return _wrap(one_line(panel.caption, CAPTION), _font(CAPTION_SIZE), width)


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
