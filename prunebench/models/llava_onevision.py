"""LLaVA-OneVision: a thumbnail and stitched crops, shrunk where there are many; several images
whole; videos pooled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from math import ceil
from typing import Any

import torch
from torch import nn

from prunebench.models import anyres
from prunebench.models import crops as vit
from prunebench.models.anyres import View
from prunebench.models.base import EncoderRows, Family, Originals
from prunebench.models.llava import projector_flops
from prunebench.tokens import Layout, Region, Tile


class LlavaOnevision(Family):
    """`LlavaOnevisionForConditionalGeneration` with a SigLIP encoder."""

    name = "LLaVA-OneVision"
    model_types = frozenset({"llava_onevision"})
    aliases = {
        "llava-onevision": "llava-hf/llava-onevision-qwen2-7b-ov-hf",
        "llava-onevision-0.5b": "llava-hf/llava-onevision-qwen2-0.5b-ov-hf",
        "llava-onevision-7b": "llava-hf/llava-onevision-qwen2-7b-ov-hf",
        "llava-onevision-72b": "llava-hf/llava-onevision-qwen2-72b-ov-hf",
    }
    vision_inputs = ("pixel_values", "pixel_values_videos")
    tiled = True
    blocks_at = ("encoder.layers", "vision_model.encoder.layers")

    def placeholders(self, model: nn.Module) -> tuple[int, ...]:
        config: Any = model.config
        return (config.image_token_id, config.video_token_id)

    def feature_block(self, model: nn.Module) -> int:
        return vit.feature_block(model.config, len(self.blocks(model)))

    def feature_blocks(self, model: nn.Module) -> tuple[int, ...]:
        return vit.feature_blocks(model.config, len(self.blocks(model)))

    def layouts(
        self, model: nn.Module, inputs: Mapping[str, Any], originals: Originals | None = None
    ) -> list[Layout]:
        config: Any = model.config
        vit.expect_encoder(config, self.name, "siglip_vision_model")
        return [anyres.layout(views) for views in _views(model, inputs)]

    def encoder_rows(
        self, model: nn.Module, inputs: Mapping[str, Any], layouts: Sequence[Layout]
    ) -> list[EncoderRows]:
        """A token of a video, or of an image of many crops, is interpolated from up to four
        patches; it may share them.
        """
        config: Any = model.config
        return anyres.encoder_rows(
            _views(model, inputs), vit.side(config.vision_config) ** 2, cls=False
        )

    def encode(self, model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
        parts: Any = model
        encoded = {}
        if inputs.get("pixel_values") is not None:
            encoded["image"] = parts.get_image_features(
                inputs["pixel_values"],
                inputs["image_sizes"],
                batch_num_images=inputs.get("batch_num_images"),
                return_dict=True,
            )
        if inputs.get("pixel_values_videos") is not None:
            encoded["video"] = parts.get_video_features(
                inputs["pixel_values_videos"], return_dict=True
            )
        return encoded

    def vision_flops(self, config: Any, inputs: Mapping[str, Any]) -> tuple[int, int]:
        grids = [anyres.grid(config, *size) if cut else (0, 0) for size, cut in _images(inputs)]
        crops = sum(1 + down * across for down, across in grids)
        for ids in inputs["input_ids"].tolist():
            crops += sum(
                count * frames
                for count, frames in (
                    _clips(config, run) for run in vit.runs(ids, config.video_token_id)
                )
            )
        rows = crops * vit.side(config.vision_config) ** 2
        return vit.vit_flops(config.vision_config, crops, cls=False), projector_flops(config, rows)


def _views(model: nn.Module, inputs: Mapping[str, Any]) -> list[list[View]]:
    """Per prompt, its images and videos."""
    config: Any = model.config
    images = (_cut(model, *size) if cut else _whole(config, *size) for size, cut in _images(inputs))
    batch = []
    for ids in inputs["input_ids"].tolist():
        views: list[View] = []
        for token, run in groupby(ids):
            if token == config.image_token_id:
                views += anyres.taken(images, len(list(run)))
            elif token == config.video_token_id:
                count, frames = _clips(config, len(list(run)))
                views += [_video(model, frames)] * count
        batch.append(views)
    return batch


def _images(inputs: Mapping[str, Any]) -> list[tuple[tuple[int, int], bool]]:
    """Height and width of every image of the batch, and whether it is cut into crops: not where a
    prompt has several.
    """
    sizes = [(height, width) for height, width in vit.given(inputs, "image_sizes")]
    together = [count for count in vit.given(inputs, "batch_num_images") for _ in range(count)]
    return [
        (size, count == 1) for size, count in zip(sizes, together or [1] * len(sizes), strict=True)
    ]


def _clips(config: Any, tokens: int) -> tuple[int, int]:
    """How many videos a run of video tokens holds, each closed by one newline, and of how many
    frames, the same for all.
    """
    frame = ceil(vit.side(config.vision_config) / 2) ** 2
    count, frames = tokens % frame, tokens // frame
    if count == 0 or frames % count:
        raise ValueError(
            f"{tokens} video tokens are no videos of {frame} tokens a frame and a newline behind the last"
        )
    return count, frames // count


def _cut(model: nn.Module, height: int, width: int) -> View:
    """A thumbnail and crops, which shrink together beyond as many as `vision_aspect_ratio` says."""
    parts: Any = model
    config = parts.config
    (packed,), _ = parts.model.pack_image_features(
        [anyres.places(vit.side(config.vision_config), *anyres.grid(config, height, width))],
        torch.tensor([[height, width]]),
        image_newline=anyres.NEWLINE,
        vision_aspect_ratio=config.vision_aspect_ratio,
    )
    return anyres.stitched(config, packed, height, width)


def _whole(config: Any, height: int, width: int) -> View:
    """One crop, padded to a square, and a newline."""
    side = vit.side(config.vision_config)
    left, top, right, bottom = anyres.whole(config.vision_config)
    across, down = max(height, width) / width, max(height, width) / height
    x, y = 0.5 - across / 2, 0.5 - down / 2
    region: Region = (x + left * across, y + top * down, x + right * across, y + bottom * down)
    patches = torch.cat([torch.arange(side**2), torch.tensor([-1])])
    return View(
        Layout((Tile(side, side, region=region), Tile(1, 0, newlines=True))), patches[:, None], 1
    )


def _video(model: nn.Module, frames: int) -> View:
    """Frames, each as the model's own pooling shrinks it, and one newline behind the last."""
    parts: Any = model
    vision = parts.config.vision_config
    side = vit.side(vision)
    pooled = parts.model.apply_pooling(anyres.places(side, 1, 1)[1:])[0].round(decimals=6)
    patches = anyres.neighbours(pooled, side, 1)
    every = torch.cat(
        [*(patches + frame * side**2 for frame in range(frames)), torch.full_like(patches[:1], -1)]
    )
    rows = ceil(side / 2)
    tiles = [
        Tile(rows, rows, "frame", frame=frame, region=anyres.whole(vision))
        for frame in range(frames)
    ]
    return View(
        Layout((*tiles, Tile(1, 0, "frame", frame=frames - 1, newlines=True))),
        every,
        frames,
        video=True,
    )
