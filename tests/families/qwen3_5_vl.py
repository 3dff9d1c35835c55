"""Qwen3.5: gated attention between layers that keep a state; heads of which half is turned."""

from __future__ import annotations

from typing import Any

from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration

from families import Miniature
from families.qwen3_vl import family

LINEAR, FULL = "linear_attention", "full_attention"
TEXT: dict[str, Any] = {
    "layer_types": [LINEAR, FULL, FULL, FULL, FULL, LINEAR],
    "linear_key_head_dim": 12,
    "linear_value_head_dim": 10,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "head_dim": 48,
    # half of a head is turned
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 1e3,
        "partial_rotary_factor": 0.5,
        "mrope_section": [4, 4, 4],
        "mrope_interleaved": True,
    },
}


def build() -> Miniature:
    return family(Qwen3_5ForConditionalGeneration, Qwen3_5Config, "Qwen3.5", **TEXT)
