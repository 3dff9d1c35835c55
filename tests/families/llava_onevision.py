"""LLaVA-OneVision: crops that shrink where there are many, several images whole, pooled videos, no
CLS token.
"""

from __future__ import annotations

from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
)

from families import Miniature, llama, seeded, token_id, tokenizer

IMAGE, VIDEO = "<image>", "<video>"
PINPOINTS = [[down * 60, across * 60] for down in (1, 2) for across in (1, 2, 3)]
SIZE = {"height": 60, "width": 60}
ASPECT = "anyres_max_3"


def build() -> Miniature:
    words = tokenizer(IMAGE, VIDEO)
    config = LlavaOnevisionConfig(
        text_config={"model_type": "qwen2", **llama(len(words))},
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            # 7 patches and a strip that is left over; pooled to 4, which share patches
            "image_size": 60,
            "patch_size": 8,
            "vision_use_head": False,
        },
        image_token_index=token_id(words, IMAGE),
        video_token_index=token_id(words, VIDEO),
        image_grid_pinpoints=PINPOINTS,
        vision_aspect_ratio=ASPECT,
    )
    processor = LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessor(size=SIZE, image_grid_pinpoints=PINPOINTS),
        words,
        LlavaOnevisionVideoProcessor(size=SIZE),
        num_image_tokens=49,
        vision_feature_select_strategy="full",
        vision_aspect_ratio=ASPECT,
    )
    model = seeded(lambda: LlavaOnevisionForConditionalGeneration(config))
    # the first is unpadded, the second has one crop, the third is shrunk
    return Miniature(
        "LLaVA-OneVision",
        model,
        processor,
        f"{IMAGE} ",
        f"{VIDEO} ",
        ((112, 84), (50, 60), (180, 110), (120, 30)),
    )
