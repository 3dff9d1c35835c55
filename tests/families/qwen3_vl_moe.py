"""Qwen3-VL with a mixture of experts: sparse and dense layers in one language model."""

from __future__ import annotations

from transformers import Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration

from families import Miniature
from families.qwen3_vl import family


def build() -> Miniature:
    return family(
        Qwen3VLMoeForConditionalGeneration,
        Qwen3VLMoeConfig,
        num_experts=5,
        num_experts_per_tok=2,
        moe_intermediate_size=48,
        decoder_sparse_step=2,
        mlp_only_layers=[3],
    )
