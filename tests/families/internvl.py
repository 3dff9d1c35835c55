"""InternVL: crops and a thumbnail behind them, pixel shuffle, a CLS token, videos of one tile a
frame.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
)

from families import Miniature, llama, seeded, token_id, tokenizer

NAMED = {
    "start_image": "<img>",
    "end_image": "</img>",
    "context_image": "<IMG_CONTEXT>",
    "video": "<video>",
}
SIZE = {"height": 56, "width": 56}


def build(**text: Any) -> Miniature:
    """With another language model where `text` says so."""
    words = tokenizer(*NAMED.values())
    for name, token in NAMED.items():
        setattr(words, f"{name}_token", token)
        setattr(words, f"{name}_token_id", words.convert_tokens_to_ids(token))
    config = InternVLConfig(
        text_config={"model_type": "qwen2", **llama(len(words)), **text},
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": 56,
            "patch_size": 7,
            "use_qk_norm": True,
            "layer_scale_init_value": 1.0,
        },
        image_token_id=token_id(words, NAMED["context_image"]),
        image_seq_length=16,
    )
    images = GotOcr2ImageProcessor(size=SIZE, crop_to_patches=True, max_patches=4)
    processor = InternVLProcessor(
        images, words, InternVLVideoProcessor(size=SIZE), image_seq_length=16
    )
    image, video = (f"{NAMED[kind]} " for kind in ("context_image", "video"))
    # the first is as near to 1x1 as to 2x2 crops; the last is one tile without a thumbnail
    sizes = ((112, 84), (112, 56), (50, 150), (56, 60))
    return Miniature("InternVL", seeded(lambda: model(config)), processor, image, video, sizes)


def model(config: InternVLConfig) -> Any:
    """With positions and a CLS token, which the stock class starts at zero."""
    made = InternVLForConditionalGeneration(config)
    for weight in (
        made.model.vision_tower.embeddings.cls_token,
        made.model.vision_tower.embeddings.position_embeddings,
    ):
        torch.nn.init.normal_(weight, std=0.1)
    return made
