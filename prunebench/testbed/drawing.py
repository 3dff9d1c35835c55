"""Pixels of a scene: textured backgrounds, antialiased shapes and bitmap digits, drawn with numpy
alone.

No font and no drawing library is involved, so a scene looks the same on every machine.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Reals = NDArray[np.float32]

PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (215, 35, 40),
    "green": (40, 165, 60),
    "blue": (40, 75, 225),
    "yellow": (240, 220, 40),
    "purple": (150, 50, 190),
    "cyan": (60, 210, 220),
    "white": (245, 245, 245),
    "black": (14, 14, 14),
}
SHAPES = ("circle", "square", "triangle", "diamond", "cross", "star")

_GLYPHS = {  # 5x7 bitmaps, one string a row
    0: "01110 10001 10011 10101 11001 10001 01110",
    1: "00100 01100 00100 00100 00100 00100 01110",
    2: "01110 10001 00001 00110 01000 10000 11111",
    3: "11110 00001 00001 01110 00001 00001 11110",
    4: "00010 00110 01010 10010 11111 00010 00010",
    5: "11111 10000 11110 00001 00001 10001 01110",
    6: "00110 01000 10000 11110 10001 10001 01110",
    7: "11111 00001 00010 00100 01000 01000 01000",
    8: "01110 10001 10001 01110 10001 10001 01110",
    9: "01110 10001 10001 01111 00001 00010 01100",
}
_SUPERSAMPLE = 4
_NOISE_SIDE, _MOST_SIDE = 512, 1120  # px: places to cut noise from, the largest scene


def background(rng: np.random.Generator, width: int, height: int, complexity: int) -> Reals:
    """[height, width, 3] in 0..255: a low-frequency coloured texture with stripes, specks, outlines
    of shapes and noise, all stronger with `complexity`.

    Colours stay muted so that no part of it can be taken for an object.
    """
    swing = 12.0 * complexity
    base = rng.uniform(95, 145)
    # five knots down, five across in three channels
    coarse = (base + rng.uniform(-swing, swing, size=(5, 15))).astype(np.float32)
    rows = (_interpolation(height, 5) @ coarse).reshape(height, 5, 3)
    canvas: Reals = _interpolation(width, 5) @ rows
    top, left = rng.integers(0, _NOISE_SIDE, size=2)
    grey = np.float32(4.0 * complexity) * _noise()[top : top + height, left : left + width]
    if complexity > 1:
        grey += _stripes(rng, width, height, 6.0 * complexity)
    for _ in range(4 * (complexity - 1)):
        side = int(rng.integers(4, 11))
        x, y = int(rng.integers(0, width - side)), int(rng.integers(0, height - side))
        grey[y : y + side, x : x + side] += np.float32(rng.uniform(-35, 35))
    for _ in range(2 * (complexity - 1)):
        side = int(rng.integers(18, 60))
        x, y = int(rng.integers(0, width - side)), int(rng.integers(0, height - side))
        outline = _outline(SHAPES[rng.integers(len(SHAPES))], side)
        grey[y : y + side, x : x + side] += np.float32(rng.uniform(-40, 40)) * outline
    canvas += grey[..., None]
    return canvas


def paint(
    canvas: Reals,
    x: int,
    y: int,
    size: int,
    colour: tuple[float, float, float],
    shape: str,
    number: str | None,
) -> None:
    """Draw one object into `canvas` ([height, width, 3], changed in place) with its box at (x, y),
    `size` px a side, and the digits of its number on it.
    """
    patch = canvas[y : y + size, x : x + size]
    share = silhouette(shape, size)[..., None]
    patch += share * (np.asarray(colour, np.float32) - patch)
    if number is not None:
        ink = 0.0 if sum(colour) > 420 else 255.0
        # two digits are as wide as eleven dots, one as five
        scale = round(size / (14 if len(number) == 1 else 19))
        glyph = _glyph(number, max(1, scale))
        rows, columns = glyph.shape
        centre = 0.62 if shape == "triangle" else 0.5  # a triangle is widest below
        top = y + round(size * centre) - rows // 2
        left = x + (size - columns) // 2
        canvas[top : top + rows, left : left + columns][glyph] = ink


@lru_cache(maxsize=1024)
def silhouette(shape: str, size: int) -> Reals:
    """[size, size] share of each pixel that the shape covers, 0..1."""
    fine = size * _SUPERSAMPLE
    axis = (np.arange(fine, dtype=np.float32) + 0.5) / fine * 2 - 1
    x, y = axis[None, :], axis[:, None]
    if shape == "circle":
        inside = x**2 + y**2 <= 1
    elif shape == "square":
        inside = np.maximum(abs(x), abs(y)) <= 0.88
    elif shape == "triangle":
        inside = abs(x) <= (y + 1) / 2
    elif shape == "diamond":
        inside = abs(x) + abs(y) <= 1
    elif shape == "cross":
        inside = np.minimum(abs(x), abs(y)) <= 0.38
    elif shape == "star":
        inside = np.hypot(x, y) <= 0.72 + 0.28 * np.cos(5 * (np.arctan2(x, -y)))
    else:
        raise ValueError(f"unknown shape {shape!r}: known are {', '.join(SHAPES)}")
    inside = np.broadcast_to(inside, (fine, fine))
    samples = inside.reshape(size, _SUPERSAMPLE, size, _SUPERSAMPLE)
    share: Reals = samples.mean((1, 3), dtype=np.float32)
    return share


@lru_cache(maxsize=1024)
def _outline(shape: str, size: int) -> Reals:
    """[size, size] the rim of a shape, some 3 px wide."""
    whole = silhouette(shape, size)
    inner = np.zeros_like(whole)
    inner[3:-3, 3:-3] = silhouette(shape, size - 6)
    rim: Reals = (whole - inner).clip(0)
    return rim


def _stripes(rng: np.random.Generator, width: int, height: int, strength: float) -> Reals:
    """[height, width] waves of some 8 to 40 px in any direction."""
    angle, wave = rng.uniform(0, np.pi), rng.uniform(8, 40)
    across = np.arange(width, dtype=np.float32) * np.float32(np.cos(angle) * 2 * np.pi / wave)
    down = np.arange(height, dtype=np.float32) * np.float32(np.sin(angle) * 2 * np.pi / wave)
    # sin(a + b) of two sines each: no sine of every pixel
    rows = np.float32(strength) * np.stack([np.sin(down), np.cos(down)], axis=1)
    stripes: Reals = rows @ np.stack([np.cos(across), np.sin(across)])
    return stripes


@lru_cache(maxsize=1)
def _noise() -> Reals:
    """[S, S] a sheet of noise, of which every scene takes a piece: drawing it anew for each pixel
    would take most of a scene's time.
    """
    size = _NOISE_SIDE + _MOST_SIDE
    return np.random.default_rng(0).standard_normal((size, size), dtype=np.float32)


@lru_cache(maxsize=1024)
def _glyph(number: str, scale: int) -> NDArray[np.bool_]:
    """[7 * scale, columns * scale] ink of a number's digits, one dot apart."""
    digits = []
    for digit in number:
        digits += [np.array([list(row) for row in _GLYPHS[int(digit)].split()]) == "1"]
        digits += [np.zeros((7, 1), bool)]
    dots = np.concatenate(digits[:-1], axis=1)
    return np.kron(dots, np.ones((scale, scale), bool)).astype(bool)


@lru_cache(maxsize=64)
def _interpolation(length: int, knots: int) -> Reals:
    """[length, knots] weights of linear interpolation between `knots` values spread over `length`
    pixels.
    """
    position = np.linspace(0, knots - 1, length, dtype=np.float32)[:, None]
    distance = abs(position - np.arange(knots, dtype=np.float32))
    return np.maximum(0, 1 - distance)
