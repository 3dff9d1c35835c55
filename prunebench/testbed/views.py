"""What a CLIP tower sees of a scene: the whole of it squashed to a square, and tiles of it as
LLaVA-NeXT cuts them.

The pixels are those of the stock image processors, made for a whole batch of scenes of one size at
once.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import CLIPImageProcessor
from transformers.image_processing_utils import select_best_resolution

SIDE, PATCH = 168, 14  # px
GRID = SIDE // PATCH  # patches a side of a view
PINPOINTS = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]
"""(height, width) of the canvases that LLaVA-NeXT cuts into tiles; an image gets the one that keeps
most of it.
"""

Boxes = NDArray[np.float64]
"""[..., 4] x0, y0, x1, y1 in pixels of the scene."""


@dataclass(frozen=True)
class Tiling:
    """How LLaVA-NeXT cuts an image: scaled to `scaled_*` px, padded by `left` and `top` px, rows x
    columns tiles of SIDE px.
    """

    width: int
    height: int
    rows: int
    columns: int
    scaled_width: int
    scaled_height: int
    left: int
    top: int

    def boxes(self) -> Boxes:
        """[rows * GRID, columns * GRID, 4] what each patch shows; patches in the padding reach
        beyond the image.
        """
        across = np.arange(self.columns * GRID + 1) * PATCH - self.left
        down = np.arange(self.rows * GRID + 1) * PATCH - self.top
        return _grid(
            across * (self.width / self.scaled_width), down * (self.height / self.scaled_height)
        )

    def kept(self) -> tuple[slice, slice]:
        """Rows and columns of patches that are left when the padding is taken off, rounded as the
        stock model rounds.
        """
        rows, columns = self.rows * GRID, self.columns * GRID
        if self.width / self.height > columns / rows:
            # wider than the canvas: padded above and below
            patches = int(round(self.height * (columns / self.width), 7))
            padding = (rows - patches) // 2
            return slice(padding, rows - padding), slice(0, columns)
        patches = int(round(self.width * (rows / self.height), 7))
        padding = (columns - patches) // 2
        return slice(0, rows), slice(padding, columns - padding)


@lru_cache(maxsize=64)
def tiling(width: int, height: int) -> Tiling:
    """The tiling of an image of width x height pixels."""
    high, wide = select_best_resolution((height, width), PINPOINTS)
    scale = min(wide / width, high / height)
    scaled_width = min(math.ceil(width * scale), wide)
    scaled_height = min(math.ceil(height * scale), high)
    return Tiling(
        width=width,
        height=height,
        rows=high // SIDE,
        columns=wide // SIDE,
        scaled_width=scaled_width,
        scaled_height=scaled_height,
        left=(wide - scaled_width) // 2,
        top=(high - scaled_height) // 2,
    )


def thumbnail_boxes(width: int, height: int) -> Boxes:
    """[GRID * GRID, 4] what each patch of the thumbnail shows."""
    across = np.linspace(0, width, GRID + 1)
    down = np.linspace(0, height, GRID + 1)
    return _grid(across, down).reshape(-1, 4)


def tile_boxes(width: int, height: int) -> Boxes:
    """[tiles, GRID * GRID, 4] what each patch of each tile shows."""
    cut = tiling(width, height)
    boxes = cut.boxes().reshape(cut.rows, GRID, cut.columns, GRID, 4)
    return boxes.transpose(0, 2, 1, 3, 4).reshape(-1, GRID * GRID, 4)


def thumbnails(pixels: Tensor) -> Tensor:
    """[B, 3, SIDE, SIDE] uint8 of [B, height, width, 3] images: squashed, whatever their shape."""
    return _resize(pixels, SIDE, SIDE)


def tiles(pixels: Tensor) -> Tensor:
    """[B, tiles, 3, SIDE, SIDE] uint8 of [B, height, width, 3] images: scaled to fit, padded with
    black.
    """
    scenes, height, width, _ = pixels.shape
    cut = tiling(width, height)
    canvas = torch.zeros(
        scenes, 3, cut.rows * SIDE, cut.columns * SIDE, dtype=torch.uint8, device=pixels.device
    )
    rows = slice(cut.top, cut.top + cut.scaled_height)
    columns = slice(cut.left, cut.left + cut.scaled_width)
    canvas[..., rows, columns] = _resize(pixels, cut.scaled_height, cut.scaled_width)
    parts = canvas.view(scenes, 3, cut.rows, SIDE, cut.columns, SIDE)
    parts = parts.permute(0, 2, 4, 1, 3, 5)
    return parts.reshape(scenes, -1, 3, SIDE, SIDE)


def normal(views: Tensor) -> Tensor:
    """uint8 views as floats, normalised as CLIP wants them."""
    mean, deviation = _moments(views.device)
    return (views.float() - mean) / deviation


@lru_cache(maxsize=8)
@torch.inference_mode(False)
def _moments(device: torch.device) -> tuple[Tensor, Tensor]:
    """[3, 1, 1] mean and standard deviation of each channel."""
    mean = torch.tensor(CLIPImageProcessor.image_mean).view(3, 1, 1) * 255
    deviation = torch.tensor(CLIPImageProcessor.image_std).view(3, 1, 1) * 255
    return mean.to(device), deviation.to(device)


def _resize(pixels: Tensor, height: int, width: int) -> Tensor:
    """[B, 3, height, width], bicubic, of [B, h, w, 3]."""
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2.functional import resize

    resized: Tensor = resize(
        pixels.permute(0, 3, 1, 2).contiguous(),
        [height, width],
        InterpolationMode.BICUBIC,
        antialias=True,
    )
    return resized


def _grid(across: NDArray[np.floating[Any]], down: NDArray[np.floating[Any]]) -> Boxes:
    """[rows, columns, 4] boxes between neighbouring edges."""
    x0, y0 = np.meshgrid(across[:-1], down[:-1])
    x1, y1 = np.meshgrid(across[1:], down[1:])
    return np.stack([x0, y0, x1, y1], axis=-1)
