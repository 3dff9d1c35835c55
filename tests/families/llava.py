"""LLaVA-1.5: CLIP with a CLS token, one crop an image."""

from __future__ import annotations

from transformers import CLIPImageProcessor, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

from families import Family, llama, seeded, tokenizer

IMAGE = "<image>"
VISION = {
    "model_type": "clip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 14,
    "projection_dim": 32,
}


def build() -> Family:
    words = tokenizer(IMAGE)
    config = LlavaConfig(
        text_config={"model_type": "llama", **llama(len(words))},
        vision_config=VISION,
        image_token_index=words.convert_tokens_to_ids(IMAGE),
        image_seq_length=16,
        vision_feature_layer=-2,
    )
    images = CLIPImageProcessor(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})
    processor = LlavaProcessor(
        images, words, patch_size=14, num_additional_image_tokens=1, vision_feature_select_strategy="default"
    )
    return Family("LLaVA-1.5", seeded(lambda: LlavaForConditionalGeneration(config)), processor, f"{IMAGE} ")
