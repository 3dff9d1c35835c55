"""Scenes: small pictures and films of coloured shapes, the same for the same number."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

COLOURS = ("red", "green", "blue", "yellow")
SHAPES = ("square", "circle")
LETTERS = "ABCD"
SIZES = ((160, 120), (120, 160), (224, 224), (300, 100), (90, 200), (64, 64))


def colour(number: int) -> str:
    """One of the colours."""
    return COLOURS[number % len(COLOURS)]


def picture(number: int, text: str = "") -> dict[str, Any]:
    """A picture as a data set stores it: two shapes, and a text below them."""
    dice = random.Random(number)
    width, height = SIZES[number % len(SIZES)]
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    side = min(width, height) // 3
    for form in (draw.rectangle, draw.ellipse):
        x, y = dice.randrange(width - side), dice.randrange(height - side)
        form((x, y, x + side, y + side), fill=dice.choice(COLOURS))
    draw.text((4, height - 14), text or str(number), fill="black")
    file = io.BytesIO()
    image.save(file, "PNG")
    return {"bytes": file.getvalue(), "path": f"{number}.png"}


def film(file: Path, number: int, frames: int = 24) -> None:
    """A film of a square that moves, eight pictures a second."""
    import av

    with av.open(str(file), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for place in range(frames):
            image = Image.new("RGB", (128, 96), "white")
            x = 4 * (place % 24)
            ImageDraw.Draw(image).rectangle((x, 20, x + 24, 50), fill=colour(number))
            frame: Any = av.VideoFrame
            container.mux(stream.encode(frame.from_image(image)))
        container.mux(stream.encode())
