"""Fetching: how images and frames are scaled before the processor sees them, by the rules of
qwen-vl-utils, through which lmms-eval's wrappers of Qwen's families read them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image

IMAGE_TOKENS = (4, 16384)
"""Tokens that an image has at least and at most."""

FRAME_TOKENS = 768
"""Tokens of the patches that a frame has at most, before two frames share theirs."""

CONTEXT = 128_000
"""Tokens of the context, of which all frames together may have nine tenths."""

FRAMES_A_PATCH = 2
"""Frames that one patch reaches over; their number is a multiple of it."""

LEAST_FRAMES, MOST_FRAMES = 4, 768
"""Frames of a video that is read at a rate."""


def image(picture: Image.Image, side: int) -> Image.Image:
    """The image at the size that it is fetched at, where a token is `side` pixels wide."""
    low, high = (tokens * side**2 for tokens in IMAGE_TOKENS)
    width, height = picture.size
    rows, columns = _whole_tokens(height, width, side, low, high)
    return picture.resize((columns, rows))


def frames(count: int, fps: float, most: int, rate: float | None) -> list[int]:
    """The numbers of the frames that are shown of `count` at `fps` a second: `most`, evenly, or
    `rate` a second, at most `most`.

    Always an even number, the only frame twice where there is one alone.
    """
    number = min(most, count)
    if rate is not None:
        least = min(LEAST_FRAMES, most)
        number = int(min(max(count / fps * rate, least), number, MOST_FRAMES))
    number = max(FRAMES_A_PATCH, number // FRAMES_A_PATCH * FRAMES_A_PATCH)
    return [int(place) for place in torch.linspace(0, count - 1, number).round()]


def frame(picture: Any, count: int, side: int, limits: tuple[int, int]) -> Any:
    """A frame [H, W, 3] uint8 at the size at which one of `count` is fetched, between `limits`
    pixels.
    """
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.functional import resize

    low, high = limits
    share = CONTEXT * side**2 * 0.9 / count * FRAMES_A_PATCH
    high = int(min(high, max(min(FRAME_TOKENS * side**2, share), int(low * 1.05))))
    height, width = picture.shape[:2]
    size = _whole_tokens(height, width, side, low, high)
    planes = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)
    scaled = resize(planes, list(size), InterpolationMode.BICUBIC, antialias=True)
    return scaled.permute(1, 2, 0).numpy()


def _whole_tokens(height: int, width: int, side: int, low: int, high: int) -> tuple[int, int]:
    """Height and width as multiples of a token's side, between so many pixels."""
    # late: it takes seconds to import, and every family is imported with this file
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    size: tuple[int, int] = smart_resize(height, width, side, low, high)
    return size
