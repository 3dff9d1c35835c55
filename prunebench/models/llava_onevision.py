"""LLaVA-OneVision: a thumbnail and stitched crops, shrunk where there are many; several images
whole; videos pooled.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from math import ceil
from typing import Any

import torch
from torch import nn

from prunebench.models import stitching
from prunebench.models.anyres import AnyresFamily, next_images
from prunebench.models.base import config_of, stock
from prunebench.models.crops import patches_a_side, rows_of, runs
from prunebench.models.harness import Harness
from prunebench.models.stitching import View
from prunebench.tokens import Layout, Region, Tile


class LlavaOnevision(AnyresFamily):
    """`LlavaOnevisionForConditionalGeneration` with a SigLIP encoder."""

    name = "LLaVA-OneVision"
    model_types = frozenset({"llava_onevision"})
    aliases = {
        "llava-onevision": "llava-hf/llava-onevision-qwen2-7b-ov-hf",
        "llava-onevision-0.5b": "llava-hf/llava-onevision-qwen2-0.5b-ov-hf",
        "llava-onevision-7b": "llava-hf/llava-onevision-qwen2-7b-ov-hf",
        "llava-onevision-72b": "llava-hf/llava-onevision-qwen2-72b-ov-hf",
    }
    harness = Harness("llava_hf", max_new_tokens=1024)
    encoders = ("siglip_vision_model",)
    vision_inputs = ("pixel_values", "pixel_values_videos")
    beside_pixels = ("image_sizes", "batch_num_images")
    blocks_at = ("encoder.layers", "vision_model.encoder.layers")

    def placeholders(self, model: nn.Module) -> tuple[int, ...]:
        config = config_of(model)
        return (config.image_token_id, config.video_token_id)

    def packing(self, config: Any) -> dict[str, Any]:
        """Beyond as many crops as `vision_aspect_ratio` says, they shrink together."""
        return {"vision_aspect_ratio": config.vision_aspect_ratio}

    def views(self, model: nn.Module, inputs: Mapping[str, Any]) -> list[list[View]]:
        config = config_of(model)
        # one queue for the whole batch: every prompt takes the images that are its own
        images = (self.image(model, *size, cut) for size, cut in _images(inputs))
        prompts = []
        for ids in inputs["input_ids"].tolist():
            views: list[View] = []
            for token, run in groupby(ids):
                length = len(list(run))
                if token == config.image_token_id:
                    views += next_images(images, length)
                elif token == config.video_token_id:
                    count, frames = _clips(config, length)
                    views += [_video(model, frames)] * count
            prompts.append(views)
        return prompts

    def image(self, model: nn.Module, height: int, width: int, cut: bool) -> View:
        """An image of this size, `cut` into crops or whole."""
        if cut:
            return self.cut(model, height, width)
        return _whole(config_of(model), height, width)

    def encode(self, model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
        encoded = super().encode(model, inputs)
        frames = inputs.get("pixel_values_videos")
        if frames is not None:
            encoded["video"] = stock(model).get_video_features(frames, return_dict=True)
        return encoded

    def crops(self, config: Any, inputs: Mapping[str, Any]) -> int:
        total = 0
        for size, cut in _images(inputs):
            down, across = stitching.grid(config, *size) if cut else (0, 0)
            total += 1 + down * across
        for ids in inputs["input_ids"].tolist():
            for run in runs(ids, config.video_token_id):
                count, frames = _clips(config, run)
                total += count * frames
        return total


def _images(inputs: Mapping[str, Any]) -> list[tuple[tuple[int, int], bool]]:
    """Height and width of every image of the batch, and whether it is cut into crops: not where a
    prompt has several.
    """
    sizes = [(height, width) for height, width in rows_of(inputs, "image_sizes")]
    alone: list[bool] = []
    for count in rows_of(inputs, "batch_num_images"):
        alone += [count == 1] * count
    # without batch_num_images the model, too, takes every image as cut
    return list(zip(sizes, alone or [True] * len(sizes), strict=True))


def _clips(config: Any, tokens: int) -> tuple[int, int]:
    """How many videos a run of video tokens holds, each closed by one newline, and of how many
    frames, the same for all.
    """
    frame = ceil(patches_a_side(config.vision_config) / 2) ** 2
    # every video adds one to a multiple of a frame's tokens, so what is left over counts them
    count = tokens % frame
    frames = tokens // frame
    if count == 0 or frames % count:
        raise ValueError(
            f"{tokens} video tokens are no videos of {frame} tokens a frame "
            "and a newline behind the last"
        )
    return count, frames // count


def _whole(config: Any, height: int, width: int) -> View:
    """One crop, padded to a square, and a newline."""
    vision = config.vision_config
    side = patches_a_side(vision)
    # the image in the middle of a square: how many times the square is longer than it
    across, down = max(height, width) / width, max(height, width) / height
    x, y = 0.5 - across / 2, 0.5 - down / 2
    left, top, right, bottom = stitching.whole(vision)
    region: Region = (x + left * across, y + top * down, x + right * across, y + bottom * down)
    # a tile of no columns is a newline alone
    tiles = (Tile(side, side, region=region), Tile(1, 0, newlines=True))
    patches = torch.cat([torch.arange(side**2), torch.tensor([-1])])
    return View(Layout(tiles), patches[:, None], crops=1)


def _video(model: nn.Module, frames: int) -> View:
    """Frames, each as the model's own pooling shrinks it, and one newline behind the last."""
    vision = config_of(model).vision_config
    side = patches_a_side(vision)
    # [1, side * side, 2]: a single crop, without the thumbnail
    frame_places = stitching.places(side, 1, 1)[1:]
    # [tokens of a frame, 2]: interpolated, so that they lie between patches
    pooled = stock(model).model.apply_pooling(frame_places)[0].round(decimals=6)
    patches = stitching.neighbours(pooled, side, 1)
    every = [patches + frame * side**2 for frame in range(frames)]
    newline = torch.full_like(patches[:1], -1)
    rows = ceil(side / 2)
    region = stitching.whole(vision)
    tiles = [Tile(rows, rows, "frame", frame=frame, region=region) for frame in range(frames)]
    tiles.append(Tile(1, 0, "frame", frame=frames - 1, newlines=True))
    return View(Layout(tuple(tiles)), torch.cat([*every, newline]), crops=frames, video=True)
