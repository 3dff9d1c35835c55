"""Idefics3: the tiles and markers of SmolVLM2, no video."""

from __future__ import annotations

from typing import Any

from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
)

from families import Miniature, llama, seeded, token_id, tokenizer
from families.smolvlm import IMAGE, MARKERS, VISION


def build() -> Miniature:
    words = tokenizer(IMAGE, "<end_of_utterance>", *MARKERS, "\n")
    settings: dict[str, Any] = {"image_token_id": token_id(words, IMAGE), "pad_token_id": 0}
    config = Idefics3Config(
        text_config={"model_type": "llama", **llama(len(words))},
        vision_config=VISION,
        scale_factor=2,
        **settings,
    )
    images = Idefics3ImageProcessor(size={"longest_edge": 180}, max_image_size={"longest_edge": 60})
    processor = Idefics3Processor(images, words, image_seq_len=16)
    model = seeded(lambda: Idefics3ForConditionalGeneration(config))
    sizes = ((112, 60), (40, 112), (112, 30), (90, 112))
    return Miniature("Idefics3", model, processor, f"{IMAGE} ", sizes=sizes)
