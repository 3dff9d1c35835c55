"""Qwen2-VL: native-resolution images and videos, full attention within a frame, 2x2 patch merge,
M-RoPE, no CLS token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prunebench.models.arithmetic import encoder_block
from prunebench.models.grids import GridFamily, merger_flops


class Qwen2VL(GridFamily):
    """`Qwen2VLForConditionalGeneration`."""

    name = "Qwen2-VL"
    model_types = frozenset({"qwen2_vl"})
    aliases = {
        "qwen2-vl": "Qwen/Qwen2-VL-7B-Instruct",
        "qwen2-vl-2b": "Qwen/Qwen2-VL-2B-Instruct",
        "qwen2-vl-7b": "Qwen/Qwen2-VL-7B-Instruct",
        "qwen2-vl-72b": "Qwen/Qwen2-VL-72B-Instruct",
    }

    def width(self, vision_config: Any) -> int:
        """Here `hidden_size` is the language model's."""
        return int(vision_config.embed_dim)

    def block_flops(self, config: Any, stretches: Sequence[int]) -> int:
        width = self.width(config.vision_config)
        intermediate = int(width * config.vision_config.mlp_ratio)
        return encoder_block(stretches, width, intermediate, gated=False)

    def projector_flops(self, vision_config: Any, patches: int) -> int:
        width = self.width(vision_config)
        return merger_flops(vision_config, patches, width, vision_config.hidden_size)
