"""InternVL: tiles of one size and a thumbnail behind them, 2x2 pixel shuffle, InternViT with a CLS
token that is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from prunebench.models import crops as vit
from prunebench.models.base import EncoderRows, Family, Originals, Size, Unsupported
from prunebench.tokens import Layout, Region, Tile


class InternVL(Family):
    """`InternVLForConditionalGeneration`: InternVL 2.5, 3 and 3.5 as converted for stock
    transformers.
    """

    name = "InternVL"
    model_types = frozenset({"internvl"})
    aliases = {
        "internvl2.5-2b": "OpenGVLab/InternVL2_5-2B-MPO-hf",
        "internvl2.5-8b": "OpenGVLab/InternVL2_5-8B-MPO-hf",
        "internvl3": "OpenGVLab/InternVL3-8B-hf",
        "internvl3-1b": "OpenGVLab/InternVL3-1B-hf",
        "internvl3-2b": "OpenGVLab/InternVL3-2B-hf",
        "internvl3-8b": "OpenGVLab/InternVL3-8B-hf",
        "internvl3-14b": "OpenGVLab/InternVL3-14B-hf",
        "internvl3-38b": "OpenGVLab/InternVL3-38B-hf",
        "internvl3-78b": "OpenGVLab/InternVL3-78B-hf",
        "internvl3.5": "OpenGVLab/InternVL3_5-8B-HF",
        "internvl3.5-1b": "OpenGVLab/InternVL3_5-1B-HF",
        "internvl3.5-2b": "OpenGVLab/InternVL3_5-2B-HF",
        "internvl3.5-4b": "OpenGVLab/InternVL3_5-4B-HF",
        "internvl3.5-8b": "OpenGVLab/InternVL3_5-8B-HF",
        "internvl3.5-14b": "OpenGVLab/InternVL3_5-14B-HF",
        "internvl3.5-38b": "OpenGVLab/InternVL3_5-38B-HF",
    }
    vision_inputs = ("pixel_values",)
    cls = True
    tiled = True
    blocks_at = ("encoder.layer",)
    attention_at = "attention"

    def placeholders(self, model: nn.Module) -> tuple[int, ...]:
        config: Any = model.config
        return (config.image_token_id,)

    def feature_block(self, model: nn.Module) -> int:
        return vit.feature_block(model.config, len(self.blocks(model)))

    def feature_blocks(self, model: nn.Module) -> tuple[int, ...]:
        return vit.feature_blocks(model.config, len(self.blocks(model)))

    def layouts(
        self, model: nn.Module, inputs: Mapping[str, Any], originals: Originals | None = None
    ) -> list[Layout]:
        """The model reads a video as images of one tile; only `originals` tell that a prompt's runs
        are frames.

        Without them a crop's region is None, too. Raises Unsupported where images stand beside a
        video in one prompt.
        """
        config: Any = model.config
        vit.expect_encoder(config, self.name, "internvl_vision")
        side = _side(config)
        layouts = []
        for row, ids in enumerate(inputs["input_ids"].tolist()):
            runs = list(vit.runs(ids, config.image_token_id))
            if any(run % side**2 for run in runs):
                raise ValueError(
                    f"the prompt's images have {runs} visual tokens; every tile has {side**2}"
                )
            counts = [run // side**2 for run in runs]
            sizes = [None] * len(counts) if originals is None else originals.sizes[row]
            if len(sizes) == len(counts):
                shown = zip(counts, sizes, strict=True)
                tiles = [
                    tile
                    for image, (count, size) in enumerate(shown)
                    for tile in _tiles(config, image, count, size)
                ]
            elif not sizes and set(counts) == {1}:
                tiles = [Tile(side, side, "frame", frame=frame) for frame in range(len(counts))]
            else:
                raise Unsupported(
                    f"the prompt shows {len(counts)} images or frames, {len(sizes)} of them images; "
                    f"{self.name}'s inputs do not say which, so give images and videos in prompts of their own"
                )
            layouts.append(Layout(tuple(tiles)))
        return layouts

    def encoder_rows(
        self, model: nn.Module, inputs: Mapping[str, Any], layouts: Sequence[Layout]
    ) -> list[EncoderRows]:
        """Pixel shuffle makes a token of a square of patches."""
        config: Any = model.config
        side, merge = _side(config), _merge(config)
        patches = (
            torch.arange(1, (side * merge) ** 2 + 1)
            .view(side, merge, side, merge)
            .transpose(1, 2)
            .reshape(-1, merge**2)
        )
        length = patches.numel() + 1
        rows, crops = [], 0
        for layout in layouts:
            first = (crops + torch.arange(len(layout.tiles))) * length
            rows.append(EncoderRows((first[:, None, None] + patches).flatten(0, 1), first))
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
        tokens = vit.count(inputs["input_ids"], config.image_token_id)
        merged, width = (
            config.vision_config.hidden_size * _merge(config) ** 2,
            config.text_config.hidden_size,
        )
        encoder = vit.vit_flops(config.vision_config, tokens // _side(config) ** 2, cls=True)
        return encoder, vit.mlp_flops(tokens, merged, width, width)


def _merge(config: Any) -> int:
    """Patches along one side of a token."""
    return int(1 / config.downsample_ratio)


def _side(config: Any) -> int:
    """Tokens along one side of a tile."""
    return vit.side(config.vision_config) // _merge(config)


def _tiles(config: Any, image: int, count: int, size: Size | None) -> list[Tile]:
    """One image's `count` tiles: itself, or crops row by row and a thumbnail behind them."""
    side = _side(config)
    if count == 1:
        return [Tile(side, side, image=image)]
    regions: list[Region | None] = [None] * (count - 1)
    if size is not None:
        across, down = _canvas(config, count - 1, size)
        regions = [
            (x / across, y / down, (x + 1) / across, (y + 1) / down)
            for y in range(down)
            for x in range(across)
        ]
    crops = [Tile(side, side, "crop", image, region=region) for region in regions]
    return [*crops, Tile(side, side, "thumbnail", image)]


def _canvas(config: Any, crops: int, size: Size) -> tuple[int, int]:
    """Crops across and down: of the arrangements of so many, the one that the stock image processor
    takes.
    """
    # late, for it needs torchvision, which a run without images of its own does not
    from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas

    across, down = get_optimal_tiled_canvas(
        size[::-1], tuple(config.vision_config.image_size), crops, crops
    )
    return across, down
