"""Llama 4: crops of a canvas padded at its right and lower edge, the whole image last, pixel
shuffle, a CLS token behind the patches; most layers look at the chunk alone that they stand in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import nn

from prunebench.models import decoders
from prunebench.models.arithmetic import linear
from prunebench.models.base import EncoderRows, Originals, Size, config_of
from prunebench.models.crops import CropFamily, edge, merged_patches, mlp_flops, patches_a_side
from prunebench.signals import Signal
from prunebench.tokens import Layout, Region, Tile

Run = tuple[int, int]
"""Where an unbroken run of visual tokens starts and ends in one prompt's ids; every tile is one."""


class Llama4(CropFamily):
    """`Llama4ForConditionalGeneration`: Scout and Maverick.

    A prompt is pruned up to the length of a chunk, 8192 positions.
    """

    name = "Llama 4"
    model_types = frozenset({"llama4"})
    aliases = {
        "llama-4-scout": "meta-llama/Llama-4-Scout-17B-16E-Instruct",
        "llama-4-maverick": "meta-llama/Llama-4-Maverick-17B-128E-Instruct",
    }
    encoders = ("llama4_vision_model",)
    tiled = True
    projects_late = True
    blocks_at = ("model.layers",)

    def decoder(self, model: nn.Module) -> nn.Module:
        """Inside the causal model that the stock class takes for its decoder."""
        causal: Any = super().decoder(model)
        decoder: nn.Module = getattr(causal, "model", causal)
        return decoder

    def merge(self, config: Any) -> int:
        return int(1 / config.vision_config.pixel_shuffle_ratio)

    def lacks(self, signal: Signal) -> str | None:
        reason = super().lacks(signal)
        if reason is None or signal.row.feature != "cls":
            return reason
        return f"the CLS token of {self.name} stands behind the patches, where none is read"

    @property
    def cls_row(self) -> int:
        return -1

    def feed_forward(self, layer: nn.Module) -> nn.Module:
        return layer.get_submodule("feed_forward")

    def layer_flops(self, text_config: Any, number: int, queries: int, keys: int) -> int:
        """A sparse layer counts the experts that a token is sent to, and the one that all share."""
        config, width = text_config, text_config.hidden_size
        flops = decoders.attending(config, queries, keys)
        if number not in config.moe_layers:
            return flops + decoders.swiglu(queries, width, config.intermediate_size_mlp)
        experts = queries * (config.num_experts_per_tok + 1)
        flops += linear(queries, width, config.num_local_experts)
        return flops + decoders.swiglu(experts, width, config.intermediate_size)

    def layouts(
        self, model: nn.Module, inputs: Mapping[str, Any], originals: Originals | None = None
    ) -> list[Layout]:
        """The prompt's ids tell the grid of an image's crops; without `originals`, not what the
        padding leaves of them.
        """
        config = config_of(model)
        self.check_encoder(config)
        layouts = []
        for row, ids in enumerate(inputs["input_ids"].tolist()):
            sizes = None if originals is None else originals.sizes[row]
            tiles = self.tiles(config, ids, sizes, originals)
            layouts.append(Layout(tuple(tiles)))
        return layouts

    def tiles(
        self,
        config: Any,
        ids: Sequence[int],
        sizes: Sequence[Size] | None,
        originals: Originals | None,
    ) -> Iterator[Tile]:
        """The tiles of one prompt, image by image."""
        side = self.tokens_a_side(config)
        crops: list[Run] = []
        image = 0
        for start, end in _runs(ids, config.image_token_id):
            if end - start != side**2:
                raise ValueError(
                    f"the prompt has a run of {end - start} visual tokens; every tile has {side**2}"
                )
            # only the last tile of an image stands before its end mark
            if ids[end : end + 1] != [config.eoi_token_id]:
                crops.append((start, end))
                continue
            across, down = _grid(ids, crops)
            size = None if sizes is None or originals is None else sizes[image]
            for region in _regions(across, down, size, originals):
                kind = "crop" if crops else "image"
                yield Tile(side, side, kind, image, region=region)
            if crops:
                yield Tile(side, side, "thumbnail", image)
            crops, image = [], image + 1

    def encoder_rows(
        self, model: nn.Module, inputs: Mapping[str, Any], layouts: Sequence[Layout]
    ) -> list[EncoderRows]:
        """Every tile is one sequence, its CLS token behind the patches."""
        config = config_of(model)
        squares = merged_patches(self.tokens_a_side(config), self.merge(config))
        rows, crops = [], 0
        for layout in layouts:
            first = (crops + torch.arange(len(layout.tiles))) * (squares.numel() + 1)
            # [tiles, tokens of a tile, patches of a token]
            rows.append(EncoderRows((first[:, None, None] + squares).flatten(0, 1)))
            crops += len(layout.tiles)
        return rows

    def stretches(self, config: Any, inputs: Mapping[str, Any], block: int) -> list[int]:
        """Every crop is one, with its CLS token."""
        rows = patches_a_side(config.vision_config) ** 2 + 1
        return [rows] * self.crops(config, inputs)

    def vision_flops(self, config: Any, inputs: Mapping[str, Any]) -> tuple[int, int]:
        """What shuffles patches into tokens is part of the encoder."""
        encoder, projector = super().vision_flops(config, inputs)
        vision = config.vision_config
        tokens = self.crops(config, inputs) * self.tokens_a_side(config) ** 2
        shuffled = vision.hidden_size * self.merge(config) ** 2
        encoder += mlp_flops(tokens, shuffled, vision.projector_input_dim)
        out = vision.projector_output_dim
        return encoder + mlp_flops(tokens, out, out), projector

    def projector_flops(self, config: Any, tokens: int) -> int:
        """One layer."""
        width = config.text_config.hidden_size
        return linear(tokens, config.vision_config.vision_output_dim, width)


def _runs(ids: Sequence[int], placeholder: int) -> Iterator[Run]:
    """The unbroken runs of visual tokens of one prompt."""
    start = 0
    for visual, group in groupby(ids, lambda token: token == placeholder):
        end = start + len(list(group))
        if visual:
            yield (start, end)
        start = end


def _grid(ids: Sequence[int], crops: Sequence[Run]) -> tuple[int, int]:
    """Crops across and down: what stands behind the last of an image's crops ends its rows."""
    if not crops:
        return 1, 1
    ends = [ids[end] for _, end in crops]
    down = ends.count(ends[-1])
    return len(crops) // down, down


def _regions(
    across: int, down: int, size: Size | None, originals: Originals | None
) -> Iterator[Region | None]:
    """What the crops of an image cover of it, row by row."""
    if size is None or originals is None:
        yield from [None] * (across * down)
        return
    from transformers.models.llama4.image_processing_llama4 import get_max_res_without_distortion

    images, (width, height) = originals.processor.image_processor, size
    crop = edge(images.size["height"])
    high, wide = down * crop, across * crop
    if not images.resize_to_max_canvas:
        # an image is not made larger than it is, nor smaller than a crop
        high, wide = min(max(height, crop), high), min(max(width, crop), wide)
    high, wide = get_max_res_without_distortion((height, width), (high, wide))
    x, y = crop / max(wide, 1), crop / max(high, 1)
    for row in range(down):
        for column in range(across):
            yield (column * x, row * y, (column + 1) * x, (row + 1) * y)
