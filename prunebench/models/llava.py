"""LLaVA-1.5: one crop of fixed size an image, CLIP with a CLS token that is dropped behind the
encoder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from prunebench.models import crops as vit
from prunebench.models.base import EncoderRows, Family, Originals, Size
from prunebench.tokens import Layout, Region, Tile


class Llava(Family):
    """`LlavaForConditionalGeneration` with a CLIP encoder."""

    name = "LLaVA-1.5"
    model_types = frozenset({"llava"})
    aliases = {
        "llava-1.5": "llava-hf/llava-1.5-7b-hf",
        "llava-1.5-7b": "llava-hf/llava-1.5-7b-hf",
        "llava-1.5-13b": "llava-hf/llava-1.5-13b-hf",
    }
    vision_inputs = ("pixel_values",)
    cls = True
    clipped = True
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
        side = vit.side(config.vision_config)
        layouts = []
        for row, ids in enumerate(inputs["input_ids"]):
            found = vit.count(ids, config.image_token_id)
            if found % side**2:
                raise ValueError(f"the prompt has {found} visual tokens; every image has {side**2}")
            regions: list[Region | None] = [None] * (found // side**2)
            if originals is not None:
                regions = [_region(size, originals.processor) for size in originals.sizes[row]]
            layouts.append(
                Layout(
                    tuple(
                        Tile(side, side, image=i, region=region) for i, region in enumerate(regions)
                    )
                )
            )
        return layouts

    def encoder_rows(
        self, model: nn.Module, inputs: Mapping[str, Any], layouts: Sequence[Layout]
    ) -> list[EncoderRows]:
        config: Any = model.config
        length = vit.side(config.vision_config) ** 2 + 1
        rows, crops = [], 0
        for layout in layouts:
            first = (crops + torch.arange(len(layout.tiles))) * length
            rows.append(EncoderRows((first[:, None] + torch.arange(1, length)).view(-1, 1), first))
            crops += len(layout.tiles)
        return rows

    def encode(self, model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
        parts: Any = model
        pixels = inputs.get("pixel_values")
        return (
            {}
            if pixels is None
            else {"image": parts.get_image_features(pixel_values=pixels, return_dict=True)}
        )

    def vision_flops(self, config: Any, inputs: Mapping[str, Any]) -> tuple[int, int]:
        patches = vit.side(config.vision_config) ** 2
        crops = vit.count(inputs["input_ids"], config.image_token_id) // patches
        return vit.vit_flops(config.vision_config, crops, cls=True), projector_flops(
            config, crops * patches
        )


def projector_flops(config: Any, rows: int) -> int:
    """LLaVA's two-layer projector over `rows` patches; several encoder layers are concatenated
    before it.
    """
    layers = config.vision_feature_layer
    width = config.vision_config.hidden_size * (
        len(layers) if isinstance(layers, list | tuple) else 1
    )
    return vit.mlp_flops(
        rows, width, config.text_config.hidden_size, config.text_config.hidden_size
    )


def _region(size: Size, processor: Any) -> Region:
    """The part of an image that the crop shows: all of it squeezed, all of it with padding, or its
    centre.
    """
    images = processor.image_processor
    width, height = size
    if getattr(images, "do_pad", False):
        across, down = max(size) / width, max(size) / height
    elif getattr(images, "do_center_crop", False) and "shortest_edge" in images.size:
        scale = images.size["shortest_edge"] / min(size)
        across, down = (
            images.crop_size["width"] / (width * scale),
            images.crop_size["height"] / (height * scale),
        )
    else:
        across = down = 1.0
    return (0.5 - across / 2, 0.5 - down / 2, 0.5 + across / 2, 0.5 + down / 2)
