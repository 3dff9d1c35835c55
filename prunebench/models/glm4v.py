"""GLM-4.1V, 4.5V and 4.6V: native-resolution images and videos, patches merged by a convolution,
M-RoPE; a video's frames stand in the prompt as images between marks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from prunebench.models import decoders
from prunebench.models.arithmetic import encoder_block, linear
from prunebench.models.base import config_of
from prunebench.models.grids import GridFamily


class Glm4V(GridFamily):
    """`Glm4vForConditionalGeneration`, `Glm46VForConditionalGeneration` and, with experts in the
    language model, `Glm4vMoeForConditionalGeneration`.
    """

    name = "GLM-4V"
    model_types = frozenset({"glm4v", "glm4v_moe", "glm46v"})
    aliases = {
        "glm-4.1v": "zai-org/GLM-4.1V-9B-Thinking",
        "glm-4.1v-9b": "zai-org/GLM-4.1V-9B-Thinking",
        "glm-4.1v-9b-base": "zai-org/GLM-4.1V-9B-Base",
        "glm-4.5v": "zai-org/GLM-4.5V",
        "glm-4.6v": "zai-org/GLM-4.6V",
        "glm-4.6v-flash": "zai-org/GLM-4.6V-Flash",
    }

    def placeholders(self, model: nn.Module) -> tuple[int, ...]:
        """One, for images and videos alike."""
        return (config_of(model).image_token_id,)

    def visual_ids(self, config: Any, ids: Sequence[int]) -> list[int]:
        """What stands between the marks of a video is one's."""
        visual: list[int] = []
        within = False
        for token in ids:
            if token in (config.video_start_token_id, config.video_end_token_id):
                within = token == config.video_start_token_id
            elif token == config.image_token_id:
                visual.append(config.video_token_id if within else token)
        return visual

    def layer_flops(self, text_config: Any, number: int, queries: int, keys: int) -> int:
        """The first layers are dense, and one expert is shared by all tokens."""
        config = text_config
        flops = decoders.attending(config, queries, keys)
        experts = getattr(config, "n_routed_experts", 0)
        if not experts or number < config.first_k_dense_replace:
            return flops + decoders.swiglu(queries, config.hidden_size, config.intermediate_size)
        shared = config.n_shared_experts * config.moe_intermediate_size
        flops += decoders.swiglu(queries, config.hidden_size, shared)
        return flops + decoders.routed(config, queries, experts)

    def block_flops(self, config: Any, stretches: Sequence[int]) -> int:
        """Here `out_hidden_size` is also the width inside a block."""
        vision = config.vision_config
        return encoder_block(stretches, vision.hidden_size, vision.out_hidden_size, gated=True)

    def projector_flops(self, vision_config: Any, patches: int) -> int:
        """A convolution that makes tokens of neighbouring patches, a square layer and SwiGLU."""
        vision = vision_config
        unit, width = vision.spatial_merge_size**2, vision.out_hidden_size
        tokens = patches // unit
        merged = linear(tokens, unit * vision.hidden_size, width) + linear(tokens, width, width)
        return merged + decoders.swiglu(tokens, width, vision.intermediate_size)
