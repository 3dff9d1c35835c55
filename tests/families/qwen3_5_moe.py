"""Qwen3.5 with a mixture of experts, one of which all tokens share."""

from __future__ import annotations

from transformers import Qwen3_5MoeConfig, Qwen3_5MoeForConditionalGeneration

from families import Miniature
from families.qwen3_5_vl import TEXT
from families.qwen3_vl import family


def build() -> Miniature:
    return family(
        Qwen3_5MoeForConditionalGeneration,
        Qwen3_5MoeConfig,
        "Qwen3.5",
        **TEXT,
        num_experts=5,
        num_experts_per_tok=2,
        moe_intermediate_size=48,
        shared_expert_intermediate_size=40,
    )
