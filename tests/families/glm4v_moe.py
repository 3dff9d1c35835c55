"""GLM-4.5V: a dense layer, then a mixture of experts of which one is shared."""

from __future__ import annotations

from transformers import Glm4vMoeConfig, Glm4vMoeForConditionalGeneration

from families import Miniature
from families.glm4v import family


def build() -> Miniature:
    return family(
        Glm4vMoeForConditionalGeneration,
        Glm4vMoeConfig,
        n_routed_experts=5,
        num_experts_per_tok=2,
        n_shared_experts=2,
        moe_intermediate_size=48,
        first_k_dense_replace=2,
    )
