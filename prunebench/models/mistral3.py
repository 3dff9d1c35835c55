"""Mistral 3 (Mistral Small 3.1 and later, Ministral 3): Pixtral's encoder at native resolution, 2x2
patches merged, every row of an image closed by a text token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from prunebench.models.arithmetic import encoder_block, linear
from prunebench.models.base import EncoderRows, Family, Originals, config_of, stock
from prunebench.models.crops import feature_layers, mlp_flops, rows_of
from prunebench.tokens import Layout, Tile

Grid = tuple[int, int]
"""Rows and columns of an image in LLM tokens."""


class Mistral3(Family):
    """`Mistral3ForConditionalGeneration`.

    The encoder takes all images of a batch as one sequence, in which a mask keeps them apart. The
    marks between the rows of an image are text, which no method drops.
    """

    name = "Mistral 3"
    model_types = frozenset({"mistral3"})
    aliases = {
        "mistral-small-3.1": "mistralai/Mistral-Small-3.1-24B-Instruct-2503",
        "mistral-small-3.2": "mistralai/Mistral-Small-3.2-24B-Instruct-2506",
        "ministral-3-3b": "mistralai/Ministral-3-3B-Instruct-2512",
        "ministral-3-8b": "mistralai/Ministral-3-8B-Instruct-2512",
        "ministral-3-14b": "mistralai/Ministral-3-14B-Instruct-2512",
    }
    vision_inputs = ("pixel_values",)
    blocks_at = ("transformer.layers",)
    attention_at = "attention"

    def placeholders(self, model: nn.Module) -> tuple[int, ...]:
        return (config_of(model).image_token_id,)

    def feature_block(self, model: nn.Module) -> int:
        return max(self.feature_blocks(model))

    def feature_blocks(self, model: nn.Module) -> tuple[int, ...]:
        """Those whose outputs are concatenated before the projector; -1 is the embedding."""
        states = len(self.blocks(model)) + 1
        return tuple(int(layer) % states - 1 for layer in feature_layers(config_of(model)))

    def token_pixels(self, model: nn.Module) -> int:
        config = config_of(model)
        return int(config.vision_config.patch_size * config.spatial_merge_size)

    def layouts(
        self, model: nn.Module, inputs: Mapping[str, Any], originals: Originals | None = None
    ) -> list[Layout]:
        config = config_of(model)
        # one queue for the whole batch: every prompt takes the images that are its own
        images = _grids(config, inputs)
        layouts = []
        for ids in inputs["input_ids"]:
            left = int((ids == config.image_token_id).sum())
            tiles: list[Tile] = []
            while left:
                rows, columns = next(images, (0, 0))
                left -= rows * columns
                if left < 0 or not rows * columns:
                    raise ValueError(
                        f"the prompt has {int((ids == config.image_token_id).sum())} visual "
                        "tokens, which image_sizes do not add up to"
                    )
                tiles.append(Tile(rows, columns, image=len(tiles)))
            layouts.append(Layout(tuple(tiles)))
        return layouts

    def encoder_rows(
        self, model: nn.Module, inputs: Mapping[str, Any], layouts: Sequence[Layout]
    ) -> list[EncoderRows]:
        """Patches stand row by row in the encoder; a token is a square of them."""
        side = config_of(model).spatial_merge_size
        start, rows = 0, []
        for layout in layouts:
            patches = [torch.empty(0, side**2, dtype=torch.int64)]
            for tile in layout.tiles:
                shape = (tile.rows, side, tile.columns, side)
                count = tile.rows * tile.columns * side**2
                # row of squares, row within, column of squares, column within
                square = (start + torch.arange(count)).view(shape).transpose(1, 2)
                patches.append(square.reshape(-1, side**2))
                start += count
            rows.append(EncoderRows(torch.cat(patches)))
        return rows

    def encode(self, model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
        if inputs.get("pixel_values") is None:
            return {}
        features = stock(model).get_image_features(
            pixel_values=inputs["pixel_values"],
            image_sizes=inputs["image_sizes"],
            return_dict=True,
        )
        return {"image": features}

    def vision_flops(self, config: Any, inputs: Mapping[str, Any]) -> tuple[int, int]:
        vision, side = config.vision_config, config.spatial_merge_size
        sizes = list(_grids(config, inputs))
        if not sizes:
            return 0, 0
        # the processor pads images to the largest sides, and the convolution sees all of that
        rows, columns = (max(lengths) * side for lengths in zip(*sizes, strict=True))
        pixels = vision.num_channels * vision.patch_size**2
        encoder = linear(len(sizes) * rows * columns, pixels, vision.hidden_size)
        block = self.block_flops(config, self.stretches(config, inputs, 0))
        encoder += vision.num_hidden_layers * block
        tokens = sum(rows * columns for rows, columns in sizes)
        width, channels = config.text_config.hidden_size, vision.hidden_size
        merger = linear(tokens, channels * side**2, channels)
        return encoder, merger + mlp_flops(tokens, channels, width, width)

    def stretches(self, config: Any, inputs: Mapping[str, Any], block: int) -> list[int]:
        """All images are one: that a mask keeps them apart saves nothing."""
        unit = config.spatial_merge_size**2
        return [sum(rows * columns * unit for rows, columns in _grids(config, inputs))]

    def block_flops(self, config: Any, stretches: Sequence[int]) -> int:
        vision = config.vision_config
        return encoder_block(stretches, vision.hidden_size, vision.intermediate_size, gated=True)


def _grids(config: Any, inputs: Mapping[str, Any]) -> Iterator[Grid]:
    """The grids of all images of the batch."""
    cell = config.vision_config.patch_size * config.spatial_merge_size
    for height, width in rows_of(inputs, "image_sizes"):
        yield height // cell, width // cell
