"""Qwen3-VL: native-resolution images and videos, whose features enter the language model again
behind its first layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from prunebench.models.arithmetic import encoder_block
from prunebench.models.base import KNOWN_GOOD, Unsupported, config_of
from prunebench.models.grids import GridFamily, merger_flops
from prunebench.models.harness import Harness

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
    # the wrapper's limits reach its videos alone: images go through at the size they are fetched at
    harness = Harness(
        "qwen3_vl",
        system_prompt="You are a helpful assistant.",
        fetches=True,
        frame_pixels=(256 * 28**2, 1_605_632),
    )

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
        # both None: the decoder itself adds nothing
        return {**kwargs, **dict.fromkeys(DEEPSTACK)}, list(features)

    def feature_blocks(self, model: nn.Module) -> tuple[int, ...]:
        """The last one, and those whose outputs are added to the language model's layers."""
        vision = config_of(model).vision_config
        return (*vision.deepstack_visual_indexes, self.feature_block(model))

    def block_flops(self, config: Any, stretches: Sequence[int]) -> int:
        vision = config.vision_config
        return encoder_block(stretches, vision.hidden_size, vision.intermediate_size, gated=False)

    def projector_flops(self, vision_config: Any, patches: int) -> int:
        """Deepstack's mergers count with the projector: they are projectors of other blocks'
        outputs.
        """
        vision = vision_config
        mergers = 1 + len(vision.deepstack_visual_indexes)
        merger = merger_flops(vision, patches, vision.hidden_size, vision.out_hidden_size)
        return mergers * merger
