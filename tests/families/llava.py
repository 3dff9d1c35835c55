"""LLaVA-1.5: CLIP with a CLS token, one crop an image."""

from __future__ import annotations

import atexit
from functools import cache
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from families import Miniature, llama, seeded, token_id, tokenizer
from prunebench.testbed.tiny_clip import build_clip_tokenizer

IMAGE = "<image>"
SIDE = 56
VISION = {
    "model_type": "clip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": 14,
    "projection_dim": 32,
}


@cache
def clip() -> str:
    """The folder of a CLIP that takes the same crops as the models here."""
    folder = Path(mkdtemp(prefix="clip-"))
    atexit.register(rmtree, folder, ignore_errors=True)
    words = build_clip_tokenizer()
    config = CLIPConfig(
        vision_config=VISION,
        text_config={
            "vocab_size": len(words),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "projection_dim": 32,
            "max_position_embeddings": 77,
            "bos_token_id": words.bos_token_id,
            "eos_token_id": words.eos_token_id,
            "pad_token_id": words.pad_token_id,
        },
        projection_dim=32,
    )
    seeded(lambda: CLIPModel(config)).save_pretrained(folder)
    words.save_pretrained(folder)
    side = {"height": SIDE, "width": SIDE}
    CLIPImageProcessor(size=side, crop_size=side).save_pretrained(folder)
    return str(folder)


def named_clip() -> dict[str, Any]:
    """The setting that says which CLIP the encoder came from; transformers does not know it."""
    return {"clip": clip()}


def build() -> Miniature:
    words = tokenizer(IMAGE)
    config = LlavaConfig(
        text_config={"model_type": "llama", **llama(len(words))},
        vision_config=VISION,
        image_token_index=token_id(words, IMAGE),
        image_seq_length=16,
        vision_feature_layer=-2,
        **named_clip(),
    )
    images = CLIPImageProcessor(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})
    processor = LlavaProcessor(
        images,
        words,
        patch_size=14,
        num_additional_image_tokens=1,
        vision_feature_select_strategy="default",
    )
    return Miniature(
        "LLaVA-1.5", seeded(lambda: LlavaForConditionalGeneration(config)), processor, f"{IMAGE} "
    )
