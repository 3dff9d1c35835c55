"""Samples: random visual tokens and a random stock model, for an author's own tests and for the
checks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from prunebench.pruner import Facts
from prunebench.signals import Signal
from prunebench.sizes import Sizes
from prunebench.tokens import Layout, Tile, VisualTokens

QUESTION = "what digit is on that red square?"
HEADS, KV_HEADS, HEAD_WIDTH, ENCODER_WIDTH, CLIP_WIDTH = 4, 2, 8, 12, 10


def facts(*, layers: int = 28, dim: int = 16) -> Facts:
    """What a method is told of the model that `tokens` stand for."""
    return Facts(
        name=None,
        layers=layers,
        width=dim,
        heads=HEADS,
        eps=1e-6,
        vision_blocks=8,
        vision_width=ENCODER_WIDTH,
        feature_block=7,
        tiled=True,
        clipped=True,
        kv_heads=KV_HEADS,
        head_width=HEAD_WIDTH,
        frequencies=tuple(1e4 ** (-2 * pair / HEAD_WIDTH) for pair in range(HEAD_WIDTH // 2)),
    )


def tokens(
    *,
    rows: int = 4,
    columns: int = 6,
    tiles: int = 1,
    newlines: bool = False,
    dim: int = 16,
    seed: int = 0,
    needs: Iterable[Signal] = (),
    blocks: Mapping[Signal, int] | None = None,
) -> VisualTokens:
    """A sample of random features and plausible signals (attention rows sum to less than 1), equal
    for equal `seed`.

    `blocks` says for how many encoder blocks or LLM layers a signal has values, and for CLIP_TEXT
    for how many texts; 1 where it says nothing. Position ids have three axes where `seed` is odd,
    else one. With TILES among the `needs` the first tile is a thumbnail and
    the others are crops of the same image, else every tile is an image of its own.
    """
    signals = frozenset(needs)
    of_one_image = Signal.TILES in signals
    layout = _layout(rows, columns, tiles, newlines, of_one_image=of_one_image)
    sizes = Sizes(
        tokens=len(layout),
        tiles=tiles,
        images=1 if of_one_image else tiles,
        image=(1, 8 * rows, 8 * columns, 3),
        width=dim,
        heads=HEADS,
        kv_heads=KV_HEADS,
        head_width=HEAD_WIDTH,
        axes=3 if seed % 2 else 1,
        encoder_width=ENCODER_WIDTH,
        clip_width=CLIP_WIDTH,
        question=QUESTION,
        seed=seed,
    )
    values: dict[Signal, Any] = {}
    for signal in sorted(signals - {Signal.TILES}):
        count = (blocks or {}).get(signal, 1)
        values[signal] = signal.row.example(replace(sizes, blocks=count, texts=count))
    return VisualTokens(
        features=sizes.normal("features", len(layout), dim),
        layout=layout,
        index=torch.arange(len(layout)),
        question=QUESTION,
        seed=seed,
        signals=values,
    )


def cast(sample: VisualTokens, dtype: torch.dtype) -> VisualTokens:
    """The sample with features and signals of that type; masks and pixels stay what they are."""
    signals: dict[Signal, Any] = {}
    for signal, value in sample.signals.items():
        is_float = isinstance(value, Tensor) and value.is_floating_point()
        signals[signal] = value.to(dtype) if is_float else value
    return replace(sample, features=sample.features.to(dtype), signals=signals)


def _layout(rows: int, columns: int, tiles: int, newlines: bool, *, of_one_image: bool) -> Layout:
    """Equal tiles: images, or a thumbnail and crops of one image."""
    kinds = ["image"] * tiles
    if of_one_image:
        kinds = ["thumbnail", *["crop"] * (tiles - 1)]
    grids = []
    for number, kind in enumerate(kinds):
        image = 0 if of_one_image else number
        grids.append(Tile(rows, columns, kind, image, newlines=newlines))
    return Layout(tuple(grids))


def random_model(
    *, rows: int, columns: int, layers: int, seed: int = 0
) -> tuple[Any, dict[str, Tensor]]:
    """A stock Qwen2.5-VL with random weights, float32, and the inputs of one image of `rows` x
    `columns` tokens.
    """
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    start, end, image, video = 60, 61, 62, 63
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 64,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
            "rope_parameters": {
                "rope_type": "default",
                "mrope_section": [2, 1, 1],
                "rope_theta": 10000.0,
            },
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "patch_size": 4,
            "window_size": 16,
            "out_hidden_size": 32,
            "fullatt_block_indexes": [1],
        },
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = Qwen2_5_VLForConditionalGeneration(config)
        # a token is 2 x 2 patches of 4 x 4 pixels, in three channels and two frames
        pixels = torch.randn(4 * rows * columns, 3 * 2 * 4 * 4)
    ids = torch.tensor([[5, 6, start, *[image] * (rows * columns), end, 7, 8, 9, 10]])
    return model.eval(), {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == image).int(),
        "pixel_values": pixels,
        "image_grid_thw": torch.tensor([[1, 2 * rows, 2 * columns]]),
    }
