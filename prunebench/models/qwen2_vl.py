"""Qwen2-VL: native-resolution images and videos, full attention within a frame, 2x2 patch merge,
M-RoPE, no CLS token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prunebench.models.arithmetic import encoder_block
from prunebench.models.grids import Grid, GridFamily, embedding_flops, frame_patches, merger_flops


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

    def grid_flops(self, vision_config: Any, grids: Sequence[Grid]) -> tuple[int, int]:
        # here `embed_dim` is the encoder's width and `hidden_size` the language model's
        vision = vision_config
        width = vision.embed_dim
        frames = frame_patches(vision, grids)
        block = encoder_block(frames, width, int(width * vision.mlp_ratio), gated=False)
        encoder = embedding_flops(vision, sum(frames), width) + vision.depth * block
        return encoder, merger_flops(vision, sum(frames), width, vision.hidden_size)
