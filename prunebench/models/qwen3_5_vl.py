"""Qwen3.5: Qwen3-VL's encoder without deepstack; most layers of the language model keep a state in
place of keys and values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prunebench.models import decoders
from prunebench.models.arithmetic import encoder_block
from prunebench.models.base import STATEFUL
from prunebench.models.grids import GridFamily, merger_flops


class Qwen35VL(GridFamily):
    """`Qwen3_5ForConditionalGeneration` and, with experts in the language model,
    `Qwen3_5MoeForConditionalGeneration`.

    Every fourth layer attends, with a gate behind it; the others read the sequence into a state (a
    gated delta rule). A token that was dropped before such a layer never enters its state.
    """

    name = "Qwen3.5"
    model_types = frozenset({"qwen3_5", "qwen3_5_moe"})
    aliases = {
        "qwen3.5": "Qwen/Qwen3.5-9B",
        "qwen3.5-0.8b": "Qwen/Qwen3.5-0.8B",
        "qwen3.5-2b": "Qwen/Qwen3.5-2B",
        "qwen3.5-4b": "Qwen/Qwen3.5-4B",
        "qwen3.5-9b": "Qwen/Qwen3.5-9B",
        "qwen3.5-27b": "Qwen/Qwen3.5-27B",
        "qwen3.5-35b-a3b": "Qwen/Qwen3.5-35B-A3B",
        "qwen3.5-122b-a10b": "Qwen/Qwen3.5-122B-A10B",
        "qwen3.5-397b-a17b": "Qwen/Qwen3.5-397B-A17B",
    }

    def layer_flops(self, text_config: Any, number: int, queries: int, keys: int) -> int:
        if text_config.layer_types[number] in STATEFUL:
            mixer = decoders.delta_rule(text_config, queries, keys)
            return mixer + decoders.mlp(text_config, number, queries)
        return decoders.layer(text_config, number, queries, keys, gated=True)

    def block_flops(self, config: Any, stretches: Sequence[int]) -> int:
        vision = config.vision_config
        return encoder_block(stretches, vision.hidden_size, vision.intermediate_size, gated=False)

    def projector_flops(self, vision_config: Any, patches: int) -> int:
        vision = vision_config
        return merger_flops(vision, patches, vision.hidden_size, vision.out_hidden_size)
