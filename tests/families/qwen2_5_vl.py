"""Qwen2.5-VL: native resolution, windows in the encoder, M-RoPE, video."""

from __future__ import annotations

from families import Miniature
from prunebench.testbed.processor import IMAGE, VIDEO, VISION_END, VISION_START, build_processor
from prunebench.testbed.tiny_qwen import TinyQwenConfig, build_model

SIZES = TinyQwenConfig(
    vision_depth=3, vision_width=32, full_attention=(1,), layers=6, width=80, heads=4, kv_heads=2
)


def build() -> Miniature:
    image, video = (f"{VISION_START} {kind} {VISION_END} " for kind in (IMAGE, VIDEO))
    # wide enough for windows of unequal size
    return Miniature(
        "Qwen2.5-VL",
        build_model(SIZES, 0),
        build_processor(),
        image,
        video,
        ((140, 196), (84, 112), (84, 84)),
    )
