"""Llama 4: padded crops, layers without positions, layers that look at chunks, experts."""

from __future__ import annotations

from transformers import (
    Llama4Config,
    Llama4ForConditionalGeneration,
    Llama4ImageProcessor,
    Llama4Processor,
)

from families import Miniature, llama, seeded, token_id, tokenizer

IMAGE, PATCH, START, END = "<|image|>", "<|patch|>", "<|image_start|>", "<|image_end|>"
BETWEEN = ("<|tile_x_separator|>", "<|tile_y_separator|>")


def build() -> Miniature:
    words = tokenizer(IMAGE, PATCH, START, END, *BETWEEN)
    config = Llama4Config(
        text_config={
            **llama(len(words)),
            "head_dim": 24,
            "intermediate_size_mlp": 120,
            # torch runs all experts for every token: as many as it chooses
            "num_local_experts": 2,
            "num_experts_per_tok": 2,
            "interleave_moe_layer_step": 2,
            "no_rope_layer_interval": 3,
        },
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 128,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": 56,
            "patch_size": 7,
            "projector_input_dim": 48,
            "projector_output_dim": 48,
            "vision_output_dim": 48,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e3},
        },
        image_token_index=token_id(words, PATCH),
        boi_token_index=token_id(words, START),
        eoi_token_index=token_id(words, END),
    )
    images = Llama4ImageProcessor(size={"height": 56, "width": 56}, max_patches=4)
    processor = Llama4Processor(images, words, patch_size=7)
    model = seeded(lambda: Llama4ForConditionalGeneration(config))
    # two crops side by side, one above the other, one, four
    sizes = ((112, 56), (50, 150), (56, 60), (110, 100))
    return Miniature("Llama 4", model, processor, f"{IMAGE} ", sizes=sizes)
