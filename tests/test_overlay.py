"""The picture of kept tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from prunebench.report.overlay import ACCENT, MOST_COLUMNS, Strip, draw
from prunebench.report.sheets import GAP, RIGHT, WRONG

GREY = (200, 180, 160)


def pixels_of(path: Path) -> NDArray[np.int_]:
    """[H, W, 3] of a picture that was written."""
    with Image.open(path) as picture:
        return np.asarray(picture).astype(int)


def test_show_keeps_the_kept_clear_and_darkens_the_dropped(tmp_path: Path) -> None:
    image = Image.new("RGB", (224, 112), GREY)
    kept = np.zeros((4, 8), dtype=bool)
    kept[0, 0] = True
    path = tmp_path / "out" / "kept.png"
    draw([Strip(image, [kept], boxes=[(60, 60, 80, 80)])], path, "")
    pixels = pixels_of(path)
    side = 28 * 4  # 112 px are brought to 448
    first = slice(GAP + 10, GAP + side - 10)
    second = slice(GAP + side + 10, GAP + 2 * side - 10)
    assert (pixels[first, first] == GREY).all()
    assert pixels[first, second].max() < 100
    assert (pixels == ACCENT).all(axis=2).any()


def test_show_puts_stages_side_by_side(tmp_path: Path) -> None:
    grids = [np.ones((8, 8), dtype=bool), np.eye(8, dtype=bool)]
    image = Image.new("RGB", (224, 224))
    strips = [Strip(image), Strip(image, grids, ["llm:2", "llm:4"])]
    path = draw(strips, tmp_path / "s.png", "t")
    assert pixels_of(path).shape[1] == 3 * 448 + 4 * GAP


def test_a_row_is_full_and_the_next_begins(tmp_path: Path) -> None:
    grids = [np.ones((8, 8), dtype=bool)] * 3
    image = Image.new("RGB", (224, 224))
    heights = []
    for strips in ([Strip(image), Strip(image, grids)], [Strip(image, grids), Strip(image, grids)]):
        height, width, _ = pixels_of(draw(strips, tmp_path / "rows.png", "t")).shape
        assert width <= MOST_COLUMNS * (448 + GAP) + GAP
        heights.append(height)
    assert heights[1] > 1.8 * heights[0]


@pytest.mark.parametrize(("right", "colour"), [(True, RIGHT), (False, WRONG)])
def test_right_and_wrong_answers_are_marked(
    tmp_path: Path, right: bool, colour: tuple[int, int, int]
) -> None:
    image = Image.new("RGB", (224, 224))
    strip = Strip(image, name="fastv", answer="→ red", right=right)
    pixels = pixels_of(draw([strip], tmp_path / "mark.png", ""))
    others = {RIGHT, WRONG} - {colour}
    assert (pixels == colour).all(axis=2).any()
    assert not any((pixels == other).all(axis=2).any() for other in others)


def test_a_smaller_image_is_shown_as_large_as_the_others(tmp_path: Path) -> None:
    strips = [Strip(Image.new("RGB", (224, 224))), Strip(Image.new("RGB", (56, 56)))]
    path = draw(strips, tmp_path / "small.png", "")
    assert pixels_of(path).shape[1] == 2 * 448 + 3 * GAP


ENDLESS = ("word " * 5000, "x" * 100_000, "\x1b[31m $\\frac{ \ud800 [/]", "\n" * 1000)


@pytest.mark.parametrize("title", ENDLESS, ids=["words", "letters", "escapes", "lines"])
def test_show_bears_endless_texts_and_thin_images(tmp_path: Path, title: str) -> None:
    kept = np.ones((1, 1), dtype=bool)
    image = Image.new("RGB", (1, 3000))
    strips = [Strip(image), Strip(image, [kept], [title], name=title, answer=title)]
    path = draw(strips, tmp_path / "thin.png", title)
    height, width, _ = pixels_of(path).shape
    assert 300 < width < 1200
    assert height < 2500
