"""Gemma 4: padded images, averaged patches, layers with a window where an image is seen in both
directions, wider heads whose keys are values in the others, experts beside every MLP.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    Gemma4AudioFeatureExtractor,
    Gemma4Config,
    Gemma4ForConditionalGeneration,
    Gemma4ImageProcessor,
    Gemma4Processor,
    Gemma4VideoProcessor,
)

from families import Miniature, llama, seeded, token_id, tokenizer

IMAGE, VIDEO, AUDIO = "<|image|>", "<|video|>", "<|audio|>"
MARKS = {"boi": "<|image>", "eoi": "<image|>", "boa": "<|audio>", "eoa": "<audio|>"}
TIMES = ("00:00", "00:01", "00:02", "00:03")
SLIDING, FULL = "sliding_attention", "full_attention"
TEXT: dict[str, Any] = {
    "head_dim": 24,
    "global_head_dim": 32,
    "num_global_key_value_heads": 1,
    "attention_k_eq_v": True,
    "hidden_size_per_layer_input": 0,
    "use_bidirectional_attention": "vision",
    "layer_types": [SLIDING, SLIDING, FULL, SLIDING, SLIDING, FULL],
    "sliding_window": 512,
    "enable_moe_block": True,
    "num_experts": 5,
    "top_k_experts": 2,
    "moe_intermediate_size": 48,
}


def build(**text: Any) -> Miniature:
    words = tokenizer(IMAGE, VIDEO, AUDIO, *MARKS.values(), *TIMES)
    for name, token in {"image": IMAGE, "audio": AUDIO, **MARKS}.items():
        setattr(words, f"{name}_token", token)
        setattr(words, f"{name}_token_id", token_id(words, token))
    config = Gemma4Config(
        text_config={**llama(len(words)), **TEXT, **text},
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "patch_size": 4,
            "pooling_kernel_size": 2,
            "position_embedding_size": 64,
        },
        audio_config=None,
        image_token_id=token_id(words, IMAGE),
        video_token_id=token_id(words, VIDEO),
        audio_token_id=token_id(words, AUDIO),
        boi_token_id=token_id(words, MARKS["boi"]),
        eoi_token_id=token_id(words, MARKS["eoi"]),
        tie_word_embeddings=False,
    )
    pixels: dict[str, Any] = {"patch_size": 4, "pooling_kernel_size": 2, "max_soft_tokens": 70}
    processor = Gemma4Processor(
        Gemma4AudioFeatureExtractor(),
        Gemma4ImageProcessor(**pixels),
        words,
        Gemma4VideoProcessor(**pixels, do_sample_frames=False),
    )
    return Miniature("Gemma 4", seeded(lambda: model(config)), processor, f"{IMAGE} ", f"{VIDEO} ")


def model(config: Gemma4Config) -> Any:
    """With places that differ, which the stock class starts alike."""
    made = Gemma4ForConditionalGeneration(config)
    torch.nn.init.normal_(made.model.vision_tower.patch_embedder.position_embedding_table)
    return made
