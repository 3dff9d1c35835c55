"""GLM-4.1V: frames of a video between marks, positions of the encoder interpolated."""

from __future__ import annotations

from typing import Any

from transformers import (
    Glm4vConfig,
    Glm4vForConditionalGeneration,
    Glm4vImageProcessor,
    Glm4vProcessor,
    Glm4vVideoProcessor,
)

from families import Miniature, llama, seeded, token_id, tokenizer

MARKS = {
    "image_token_id": "<|image|>",
    "video_token_id": "<|video|>",
    "image_start_token_id": "<|begin_of_image|>",
    "image_end_token_id": "<|end_of_image|>",
    "video_start_token_id": "<|begin_of_video|>",
    "video_end_token_id": "<|end_of_video|>",
}
TEXT: dict[str, Any] = {
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 1e3,
        "partial_rotary_factor": 0.8,
        "mrope_section": [2, 3, 3],
    }
}


def family(
    make: Any = Glm4vForConditionalGeneration, config: Any = Glm4vConfig, **text: Any
) -> Miniature:
    """The family's miniature with a text model of `text` besides."""
    words = tokenizer(*MARKS.values())
    settings = config(
        text_config={**llama(len(words)), **TEXT, **text},
        vision_config={
            "depth": 3,
            "hidden_size": 32,
            "intermediate_size": 72,
            "num_heads": 2,
            "out_hidden_size": 80,
            "image_size": 56,
        },
        **{name: token_id(words, token) for name, token in MARKS.items()},
    )
    pixels: dict[str, Any] = {"size": {"shortest_edge": 2 * 28**2, "longest_edge": 128 * 28**2}}
    processor = Glm4vProcessor(
        Glm4vImageProcessor(**pixels),
        words,
        Glm4vVideoProcessor(
            size={"shortest_edge": 4 * 28**2, "longest_edge": 128 * 28**2},
            max_image_size={"longest_edge": 128 * 28**2},
            do_sample_frames=False,
        ),
    )
    image, video = (
        f"<|begin_of_{kind}|> <|{kind}|> <|end_of_{kind}|> " for kind in ("image", "video")
    )
    # the last one is larger than the processor allows
    sizes = ((112, 84), (80, 150), (56, 140), (300, 260))
    return Miniature("GLM-4V", seeded(lambda: make(settings)), processor, image, video, sizes)


def build() -> Miniature:
    return family()
