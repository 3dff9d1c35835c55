"""Qwen3-VL: native-resolution images and videos, whose features enter the language model again
behind its first layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from prunebench.models.arithmetic import encoder_block
from prunebench.models.base import KNOWN_GOOD, Unsupported
from prunebench.models.grids import Grid, GridFamily, embedding_flops, frame_patches, merger_flops

DEEPSTACK = ("visual_pos_masks", "deepstack_visual_embeds")
"""The decoder's arguments that say where it adds visual features, and what it adds, one tensor a
layer.
"""


class Qwen3VL(GridFamily):
    """`Qwen3VLForConditionalGeneration` and, with experts in the language model,
    `Qwen3VLMoeForConditionalGeneration`.

    A video's frames have timestamps between them. Deepstack: what some encoder blocks put out is
    merged like the last one's output and added to the visual tokens behind the language model's
    first layers.
    """

    name = "Qwen3-VL"
    model_types = frozenset({"qwen3_vl", "qwen3_vl_moe"})
    aliases = {
        "qwen3-vl": "Qwen/Qwen3-VL-8B-Instruct",
        "qwen3-vl-2b": "Qwen/Qwen3-VL-2B-Instruct",
        "qwen3-vl-4b": "Qwen/Qwen3-VL-4B-Instruct",
        "qwen3-vl-8b": "Qwen/Qwen3-VL-8B-Instruct",
        "qwen3-vl-32b": "Qwen/Qwen3-VL-32B-Instruct",
        "qwen3-vl-30b-a3b": "Qwen/Qwen3-VL-30B-A3B-Instruct",
        "qwen3-vl-235b-a22b": "Qwen/Qwen3-VL-235B-A22B-Instruct",
    }

    def injected(self, kwargs: dict[str, Any]) -> tuple[dict[str, Any], list[Tensor]]:
        """Raises Unsupported where the decoder is no longer given the visual features by that
        name.
        """
        missing = [name for name in DEEPSTACK if name not in kwargs]
        if missing:
            raise Unsupported(
                f"the decoder of {self.name} got no {missing[0]}; "
                f"prunebench is known to work with {KNOWN_GOOD}"
            )
        features = kwargs["deepstack_visual_embeds"] or []
        return {**kwargs, **dict.fromkeys(DEEPSTACK)}, list(features)

    def grid_flops(self, vision_config: Any, grids: Sequence[Grid]) -> tuple[int, int]:
        """Deepstack's mergers count with the projector: they are projectors of other blocks'
        outputs.
        """
        vision = vision_config
        width = vision.hidden_size
        frames = frame_patches(vision, grids)
        block = encoder_block(frames, width, vision.intermediate_size, gated=False)
        encoder = embedding_flops(vision, sum(frames), width) + vision.depth * block
        mergers = 1 + len(vision.deepstack_visual_indexes)
        return encoder, mergers * merger_flops(vision, sum(frames), width, vision.out_hidden_size)
