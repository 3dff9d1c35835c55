"""LLaVA-NeXT (LLaVA-1.6): a thumbnail, then crops stitched together, unpadded, each row closed by a
newline token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from prunebench.models.anyres import AnyresFamily, next_images
from prunebench.models.base import config_of
from prunebench.models.crops import rows_of
from prunebench.models.harness import Harness
from prunebench.models.stitching import View, grid


class LlavaNext(AnyresFamily):
    """`LlavaNextForConditionalGeneration` with a CLIP encoder."""

    name = "LLaVA-NeXT"
    model_types = frozenset({"llava_next"})
    aliases = {
        "llava-next": "llava-hf/llava-v1.6-vicuna-7b-hf",
        "llava-next-7b": "llava-hf/llava-v1.6-vicuna-7b-hf",
        "llava-next-13b": "llava-hf/llava-v1.6-vicuna-13b-hf",
        "llava-next-34b": "llava-hf/llava-v1.6-34b-hf",
        "llava-next-mistral": "llava-hf/llava-v1.6-mistral-7b-hf",
    }
    harness = Harness("llava_hf", max_new_tokens=1024)
    encoders = ("clip_vision_model",)
    beside_pixels = ("image_sizes",)
    cls = True
    clipped = True
    blocks_at = ("encoder.layers", "vision_model.encoder.layers")

    def packing(self, config: Any) -> dict[str, Any]:
        return {"vision_feature_select_strategy": config.vision_feature_select_strategy}

    def views(self, model: nn.Module, inputs: Mapping[str, Any]) -> list[list[View]]:
        token = config_of(model).image_token_id
        sizes = rows_of(inputs, "image_sizes")
        # one queue for the whole batch: every prompt takes the images that are its own
        images = (self.cut(model, height, width) for height, width in sizes)
        prompts = []
        for ids in inputs["input_ids"]:
            prompts.append(next_images(images, int((ids == token).sum())))
        return prompts

    def crops(self, config: Any, inputs: Mapping[str, Any]) -> int:
        count = 0
        for height, width in rows_of(inputs, "image_sizes"):
            down, across = grid(config, height, width)
            count += 1 + down * across
        return count
