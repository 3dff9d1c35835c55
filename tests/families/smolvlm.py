"""SmolVLM2: SigLIP tiles between marker tokens, the whole image last, pixel shuffle, video as
frames behind timestamps.
"""

from __future__ import annotations

from typing import Any

from transformers import (
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)
from transformers.models.smolvlm import processing_smolvlm

from families import Miniature, llama, seeded, token_id, tokenizer

IMAGE, VIDEO = "<image>", "<video>"
MARKERS = (
    "<fake_token_around_image>",
    "<global-img>",
    *(f"<row_{r}_col_{c}>" for r in range(1, 4) for c in range(1, 4)),
)
TIMES = ("\n", ":", "0", "1", "2", "3")  # the real tokenizer keeps newlines and takes digits apart
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    # the last 4 pixels of a tile are in no patch, as in the 2.2B model the last 6 of 384
    "image_size": 60,
    "patch_size": 7,
}


def build() -> Miniature:
    words = tokenizer(IMAGE, VIDEO, "<end_of_utterance>", *MARKERS, *TIMES)
    settings: dict[str, Any] = {"image_token_id": token_id(words, IMAGE), "pad_token_id": 0}
    config = SmolVLMConfig(
        text_config={"model_type": "llama", **llama(len(words))},
        vision_config=VISION,
        scale_factor=2,
        **settings,
    )
    options: dict[str, Any] = {
        "size": {"longest_edge": 180},
        "max_image_size": {"longest_edge": 60},
    }
    # it spells how many frames a video has, nothing else; the processor insists on it
    processing: Any = processing_smolvlm
    if processing.num2words is None:
        processing.num2words = str
    processor = SmolVLMProcessor(
        SmolVLMImageProcessor(**options),
        words,
        SmolVLMVideoProcessor(**options, do_sample_frames=False),
        image_seq_len=16,
    )
    model = seeded(lambda: SmolVLMForConditionalGeneration(config))
    sizes = ((112, 60), (40, 112), (112, 30), (90, 112))
    return Miniature(
        "SmolVLM2", model, processor, f"{IMAGE} ", f"{VIDEO} ", sizes=sizes, nested=True
    )
