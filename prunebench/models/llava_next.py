"""LLaVA-NeXT (LLaVA-1.6): a thumbnail, then crops stitched together, unpadded, each row closed by a
newline token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from prunebench.models import anyres
from prunebench.models import crops as vit
from prunebench.models.anyres import View
from prunebench.models.base import EncoderRows, Family, Originals
from prunebench.models.llava import projector_flops
from prunebench.tokens import Layout


class LlavaNext(Family):
    """`LlavaNextForConditionalGeneration` with a CLIP encoder."""

    name = "LLaVA-NeXT"
    model_types = frozenset({"llava_next"})
    aliases = {
        "llava-next": "llava-hf/llava-v1.6-vicuna-7b-hf",
        "llava-next-7b": "llava-hf/llava-v1.6-vicuna-7b-hf",
        "llava-next-13b": "llava-hf/llava-v1.6-vicuna-13b-hf",
        "llava-next-mistral": "llava-hf/llava-v1.6-mistral-7b-hf",
    }
    vision_inputs = ("pixel_values",)
    cls = True
    clipped = True
    tiled = True
    blocks_at = ("encoder.layers", "vision_model.encoder.layers")

    def placeholders(self, model: nn.Module) -> tuple[int, ...]:
        config: Any = model.config
        return (config.image_token_id,)

    def feature_block(self, model: nn.Module) -> int:
        return vit.feature_block(model.config, len(self.blocks(model)))

    def feature_blocks(self, model: nn.Module) -> tuple[int, ...]:
        return vit.feature_blocks(model.config, len(self.blocks(model)))

    def clip(self, model: nn.Module) -> str | None:
        return vit.clip_of(model.config)

    def layouts(
        self, model: nn.Module, inputs: Mapping[str, Any], originals: Originals | None = None
    ) -> list[Layout]:
        config: Any = model.config
        vit.expect_encoder(config, self.name, "clip_vision_model")
        return [anyres.layout(views) for views in _views(model, inputs)]

    def encoder_rows(
        self, model: nn.Module, inputs: Mapping[str, Any], layouts: Sequence[Layout]
    ) -> list[EncoderRows]:
        config: Any = model.config
        return anyres.encoder_rows(
            _views(model, inputs), vit.side(config.vision_config) ** 2, cls=True
        )

    def encode(self, model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
        parts: Any = model
        pixels = inputs.get("pixel_values")
        return (
            {}
            if pixels is None
            else {
                "image": parts.get_image_features(pixels, inputs["image_sizes"], return_dict=True)
            }
        )

    def vision_flops(self, config: Any, inputs: Mapping[str, Any]) -> tuple[int, int]:
        crops = sum(
            1 + down * across
            for down, across in (
                anyres.grid(config, *size) for size in vit.given(inputs, "image_sizes")
            )
        )
        rows = crops * vit.side(config.vision_config) ** 2
        return vit.vit_flops(config.vision_config, crops, cls=True), projector_flops(config, rows)


def _views(model: nn.Module, inputs: Mapping[str, Any]) -> list[list[View]]:
    """Per prompt, its images."""
    config: Any = model.config
    images = (_view(model, height, width) for height, width in vit.given(inputs, "image_sizes"))
    return [
        anyres.taken(images, vit.count(ids, config.image_token_id)) for ids in inputs["input_ids"]
    ]


def _view(model: nn.Module, height: int, width: int) -> View:
    parts: Any = model
    config = parts.config
    (packed,), _ = parts.model.pack_image_features(
        [anyres.places(vit.side(config.vision_config), *anyres.grid(config, height, width))],
        torch.tensor([[height, width]]),
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        image_newline=anyres.NEWLINE,
    )
    return anyres.stitched(config, packed, height, width)
