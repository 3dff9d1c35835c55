"""Mistral 3: native resolution, rows closed by text tokens, all images one sequence."""

from __future__ import annotations

from transformers import (
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PixtralImageProcessor,
    PixtralProcessor,
)

from families import Miniature, llama, seeded, token_id, tokenizer

IMAGE, BREAK, END = "[IMG]", "[IMG_BREAK]", "[IMG_END]"


def build() -> Miniature:
    words = tokenizer(IMAGE, BREAK, END)
    config = Mistral3Config(
        text_config={"model_type": "mistral", "sliding_window": None, **llama(len(words))},
        vision_config={
            "model_type": "pixtral",
            "hidden_size": 32,
            "intermediate_size": 72,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "head_dim": 16,
            "image_size": 224,
            "patch_size": 14,
            "rope_parameters": {"rope_type": "axial", "rope_theta": 1e3},
        },
        image_token_index=token_id(words, IMAGE),
        tie_word_embeddings=False,
    )
    images = PixtralImageProcessor(
        size={"longest_edge": 224}, patch_size={"height": 14, "width": 14}
    )
    processor = PixtralProcessor(images, words, patch_size=14, spatial_merge_size=2)
    model = seeded(lambda: Mistral3ForConditionalGeneration(config))
    # the last one is larger than the processor allows
    sizes = ((112, 84), (80, 150), (56, 140), (300, 260))
    return Miniature("Mistral 3", model, processor, f"{IMAGE} ", sizes=sizes, one_sequence=True)
