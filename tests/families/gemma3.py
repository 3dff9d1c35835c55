"""Gemma 3: images seen in both directions, layers with a window and two rotary tables."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessor,
    Gemma3Processor,
)

from families import Miniature, llama, seeded, token_id, tokenizer

IMAGE, START, END = "<image_soft_token>", "<start_of_image>", "<end_of_image>"
SLIDING, FULL = "sliding_attention", "full_attention"


def build(window: int = 512) -> Miniature:
    words = tokenizer(IMAGE, START, END)
    for name, token in {"image": IMAGE, "boi": START, "eoi": END}.items():
        setattr(words, f"{name}_token", token)
        setattr(words, f"{name}_token_id", token_id(words, token))
    config = Gemma3Config(
        text_config={
            **llama(len(words)),
            "head_dim": 24,
            "query_pre_attn_scalar": 24,
            "sliding_window": window,
            "layer_types": [SLIDING, SLIDING, FULL, SLIDING, SLIDING, FULL],
        },
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": 56,
            "patch_size": 7,
            "vision_use_head": False,
        },
        mm_tokens_per_image=16,
        image_token_index=token_id(words, IMAGE),
        boi_token_index=token_id(words, START),
        eoi_token_index=token_id(words, END),
    )
    images = Gemma3ImageProcessor(size={"height": 56, "width": 56})
    processor = Gemma3Processor(images, words, image_seq_length=16)
    return Miniature("Gemma 3", seeded(lambda: model(config)), processor, f"{START} ")


def model(config: Gemma3Config) -> Any:
    """With a projector, which the stock class starts at zero."""
    made = Gemma3ForConditionalGeneration(config)
    torch.nn.init.normal_(made.model.multi_modal_projector.mm_input_projection_weight, std=0.1)
    return made
