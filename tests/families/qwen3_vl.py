"""Qwen3-VL: visual features added behind the first three LLM layers, frames between timestamps,
heads wider than the model.
"""

from __future__ import annotations

from typing import Any

from transformers import (
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from families import Miniature, llama, seeded, tokenizer
from families.qwen2_vl import END, IMAGE, START, VIDEO, marks

VISION = {
    "depth": 4,
    "hidden_size": 32,
    "intermediate_size": 72,
    "num_heads": 2,
    "out_hidden_size": 80,
    "num_position_embeddings": 36,
    "deepstack_visual_indexes": [0, 1, 2],
}
HEADS = {
    "head_dim": 24,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 1e3,
        "mrope_section": [4, 4, 4],
        "mrope_interleaved": True,
    },
}


def family(make: Any, config: Any, name: str = "Qwen3-VL", **text: Any) -> Miniature:
    """The family's miniature with a text model of `text` besides; the mixture of experts differs in
    nothing else.
    """
    words = tokenizer(START, END, IMAGE, VIDEO)
    settings = config(
        text_config={**llama(len(words)), **HEADS, **text}, vision_config=VISION, **marks(words)
    )
    pixels: dict[str, Any] = {
        "patch_size": 16,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "size": {"shortest_edge": 32**2, "longest_edge": 64 * 32**2},
    }
    processor = Qwen3VLProcessor(
        Qwen2VLImageProcessor(**pixels),
        words,
        Qwen3VLVideoProcessor(**pixels, do_sample_frames=False),
    )
    sizes = ((128, 96), (90, 170), (64, 160), (300, 260))
    # the processor puts marks around every frame of a video
    return Miniature(
        name,
        seeded(lambda: make(settings)),
        processor,
        f"{START} {IMAGE} {END} ",
        f"{VIDEO} ",
        sizes,
    )


def build() -> Miniature:
    return family(Qwen3VLForConditionalGeneration, Qwen3VLConfig)
