"""Gemma 3: one crop of fixed size an image, SigLIP whose patches are averaged into tokens; the
tokens of an image see each other in both directions, and most layers look back a window alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn

from prunebench.models.arithmetic import linear
from prunebench.models.base import Originals, config_of
from prunebench.models.crops import CropFamily, patches_a_side
from prunebench.tokens import Layout, Tile


class Gemma3(CropFamily):
    """`Gemma3ForConditionalGeneration`.

    Where the processor adds crops of an image ("pan and scan"), each is an image of its own: the
    prompt does not say what it was cut from.
    """

    name = "Gemma 3"
    model_types = frozenset({"gemma3"})
    aliases = {
        "gemma-3": "google/gemma-3-12b-it",
        "gemma-3-4b": "google/gemma-3-4b-it",
        "gemma-3-12b": "google/gemma-3-12b-it",
        "gemma-3-27b": "google/gemma-3-27b-it",
    }
    encoders = ("siglip_vision_model",)
    blocks_at = ("encoder.layers", "vision_model.encoder.layers")

    def merge(self, config: Any) -> int:
        return patches_a_side(config.vision_config) // isqrt(config.mm_tokens_per_image)

    def tables(self, model: nn.Module, hidden: Tensor, ids: Tensor) -> Mapping[str, Any]:
        """Layers with a window turn faster than the others."""
        rotary: Any = self.rotary(model)
        ids = ids.to(hidden.device)
        return {kind: rotary.forward(hidden, ids, kind) for kind in set(self.kinds(model))}

    def together(self, inputs: Mapping[str, Any], visual: Tensor) -> Tensor | None:
        """Every unbroken run of an image's tokens, which the processor marks."""
        kinds = inputs.get("token_type_ids")
        if kinds is None:  # then the model, too, takes them for text
            return None
        image = kinds.cpu() == 1
        starts = image & ~torch.nn.functional.pad(image, (1, 0))[:, :-1]
        return torch.where(image, starts.cumsum(1), -1)

    def layouts(
        self, model: nn.Module, inputs: Mapping[str, Any], originals: Originals | None = None
    ) -> list[Layout]:
        """Images are squeezed to a square, so that a tile shows all of one."""
        config = config_of(model)
        self.check_encoder(config)
        side = self.tokens_a_side(config)
        layouts = []
        for ids in inputs["input_ids"]:
            images = self.square_images(config, ids)
            tiles = [Tile(side, side, image=image) for image in range(images)]
            layouts.append(Layout(tuple(tiles)))
        return layouts

    def projector_flops(self, config: Any, tokens: int) -> int:
        """One matrix, behind the averages."""
        return linear(tokens, config.vision_config.hidden_size, config.text_config.hidden_size)
