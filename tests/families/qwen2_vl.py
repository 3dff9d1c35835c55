"""Qwen2-VL: native resolution, full attention within a frame, M-RoPE, video."""

from __future__ import annotations

from typing import Any

from transformers import (
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

from families import Miniature, llama, seeded, tokenizer

START, END, IMAGE, VIDEO = "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"


def marks(words: Any) -> dict[str, Any]:
    """The ids of the family's special tokens, by their names in the configuration."""
    names = {"image": IMAGE, "video": VIDEO, "vision_start": START, "vision_end": END}
    return {f"{name}_token_id": words.convert_tokens_to_ids(token) for name, token in names.items()}


def build() -> Miniature:
    words = tokenizer(START, END, IMAGE, VIDEO)
    config = Qwen2VLConfig(
        text_config={
            **llama(len(words)),
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e3,
                "mrope_section": [2, 4, 4],
            },
        },
        vision_config={
            "depth": 3,
            "embed_dim": 32,
            "hidden_size": 80,
            "num_heads": 2,
            "mlp_ratio": 3,
        },
        **marks(words),
    )
    pixels: dict[str, Any] = {"size": {"shortest_edge": 28**2, "longest_edge": 64 * 28**2}}
    processor = Qwen2VLProcessor(
        Qwen2VLImageProcessor(**pixels), words, Qwen2VLVideoProcessor(**pixels)
    )
    image, video = (f"{START} {kind} {END} " for kind in (IMAGE, VIDEO))
    model = seeded(lambda: Qwen2VLForConditionalGeneration(config))
    # the last one is larger than the processor allows
    return Miniature(
        "Qwen2-VL", model, processor, image, video, ((112, 84), (80, 150), (56, 140), (300, 260))
    )
