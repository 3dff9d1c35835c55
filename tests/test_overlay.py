"""The picture of kept tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from prunebench.report.overlay import ACCENT, GAP, draw

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
    draw(image, [kept], path, "", boxes=[(60, 60, 80, 80)], original=False)
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
    path = draw(image, grids, tmp_path / "s.png", "t", captions=["llm:2", "llm:4"])
    assert pixels_of(path).shape[1] == 3 * 448 + 4 * GAP


ENDLESS = ("word " * 5000, "x" * 100_000, "\x1b[31m $\\frac{ \ud800 [/]", "\n" * 1000)


@pytest.mark.parametrize("title", ENDLESS, ids=["words", "letters", "escapes", "lines"])
def test_show_bears_endless_texts_and_thin_images(tmp_path: Path, title: str) -> None:
    kept = np.ones((1, 1), dtype=bool)
    image = Image.new("RGB", (1, 3000))
    path = draw(image, [kept], tmp_path / "thin.png", title, captions=[title])
    height, width, _ = pixels_of(path).shape
    assert 300 < width < 1200
    assert height < 2500
