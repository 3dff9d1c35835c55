"""LLaVA-1.5: one crop of fixed size an image, CLIP with a CLS token that is dropped behind the
encoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from prunebench.models.base import Originals, Size, config_of
from prunebench.models.crops import CropFamily
from prunebench.models.harness import Harness
from prunebench.tokens import Layout, Region, Tile


class Llava(CropFamily):
    """`LlavaForConditionalGeneration` with a CLIP encoder."""

    name = "LLaVA-1.5"
    model_types = frozenset({"llava"})
    aliases = {
        "llava-1.5": "llava-hf/llava-1.5-7b-hf",
        "llava-1.5-7b": "llava-hf/llava-1.5-7b-hf",
        "llava-1.5-13b": "llava-hf/llava-1.5-13b-hf",
    }
    harness = Harness("llava_hf", max_new_tokens=1024)
    encoders = ("clip_vision_model",)
    cls = True
    clipped = True
    blocks_at = ("encoder.layers", "vision_model.encoder.layers")

    def layouts(
        self, model: nn.Module, inputs: Mapping[str, Any], originals: Originals | None = None
    ) -> list[Layout]:
        config = config_of(model)
        self.check_encoder(config)
        side = self.tokens_a_side(config)
        layouts = []
        for row, ids in enumerate(inputs["input_ids"]):
            regions: list[Region | None] = [None] * self.square_images(config, ids)
            if originals is not None:
                regions = [_region(size, originals.processor) for size in originals.sizes[row]]
            tiles = [
                Tile(side, side, image=image, region=region) for image, region in enumerate(regions)
            ]
            layouts.append(Layout(tuple(tiles)))
        return layouts


def _region(size: Size, processor: Any) -> Region:
    """The part of an image that the crop shows: all of it squeezed, all of it with padding, or its
    centre.
    """
    images = processor.image_processor
    width, height = size
    across = down = 1.0
    if getattr(images, "do_pad", False):
        across, down = max(size) / width, max(size) / height
    elif getattr(images, "do_center_crop", False) and "shortest_edge" in images.size:
        scale = images.size["shortest_edge"] / min(size)
        across = images.crop_size["width"] / (width * scale)
        down = images.crop_size["height"] / (height * scale)
    return (0.5 - across / 2, 0.5 - down / 2, 0.5 + across / 2, 0.5 + down / 2)
