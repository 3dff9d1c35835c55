"""LLaVA-NeXT: a thumbnail and crops with newline tokens."""

from __future__ import annotations

from transformers import (
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
)

from families import Miniature, llama, seeded, token_id, tokenizer
from families.llava import IMAGE, VISION, named_clip

PINPOINTS = [[56, 112], [112, 56], [112, 112]]


def build() -> Miniature:
    words = tokenizer(IMAGE)
    config = LlavaNextConfig(
        text_config={"model_type": "llama", **llama(len(words))},
        vision_config=VISION,
        image_token_index=token_id(words, IMAGE),
        image_grid_pinpoints=PINPOINTS,
        vision_feature_layer=-2,
        **named_clip(),
    )
    images = LlavaNextImageProcessor(
        size={"shortest_edge": 56},
        crop_size={"height": 56, "width": 56},
        image_grid_pinpoints=PINPOINTS,
    )
    processor = LlavaNextProcessor(
        images,
        words,
        patch_size=14,
        num_additional_image_tokens=1,
        vision_feature_select_strategy="default",
    )
    model = seeded(lambda: LlavaNextForConditionalGeneration(config))
    return Miniature(
        "LLaVA-NeXT",
        model,
        processor,
        f"{IMAGE} ",
        sizes=((112, 84), (112, 112), (40, 112), (112, 30)),
    )
