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
from prunebench.tokens import Layout, Signal, Tile, VisualTokens

QUESTION = "what digit is on that red square?"
HEADS, ENCODER_WIDTH, CLIP_WIDTH = 4, 12, 10


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

    `blocks` says for how many encoder blocks a signal has values, and for CLIP_TEXT for how many
    texts; 1 where it says nothing. With TILES among the `needs` the first tile is a thumbnail and
    the others are crops of the same image, else every tile is an image of its own.
    """
    signals = frozenset(needs)
    layout = _layout(rows, columns, tiles, newlines, of_one_image=Signal.TILES in signals)
    draw = torch.Generator().manual_seed(seed)
    features = torch.randn(len(layout), dim, generator=draw)  # first: the same whatever is asked
    values = _values(layout, dim, blocks or {}, draw)
    return VisualTokens(
        features,
        layout,
        torch.arange(len(layout)),
        question=QUESTION,
        seed=seed,
        signals={signal: values[signal] for signal in sorted(signals - {Signal.TILES})},
    )


def cast(sample: VisualTokens, dtype: torch.dtype) -> VisualTokens:
    """The sample with features and signals of that type; masks and pixels stay what they are."""
    signals: dict[Signal, Any] = {}
    for signal, value in sample.signals.items():
        signals[signal] = value.to(dtype) if isinstance(value, Tensor) else value
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


def _values(
    layout: Layout, dim: int, blocks: Mapping[Signal, int], draw: torch.Generator
) -> dict[Signal, Any]:
    """Values of every signal, drawn one after the other."""
    count, tiles, text = len(layout), len(layout.tiles), 7

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw)

    paid = (2 * normal(HEADS, text, count + text)).softmax(dim=-1)[..., :count]
    values: dict[Signal, Any] = {
        Signal.LAST_QUERY_ATTENTION: paid[:, -1],
        Signal.NEXT_QUERY_ATTENTION: (2 * normal(HEADS, count + text)).softmax(dim=-1)[:, :count],
        Signal.TEXT_ATTENTION: paid,
        Signal.KEYS: normal(HEADS // 2, count, 8),
        Signal.TEXT_FEATURES: normal(text, dim),
        Signal.PROBE_LOGITS: 2 * normal(HEADS, count),
        Signal.PROBE_LOG_ATTENTION: normal(HEADS, count + text).log_softmax(dim=-1)[:, :count],
        Signal.CLIP_TEXT: normal(blocks.get(Signal.CLIP_TEXT, 1), CLIP_WIDTH),
        Signal.CLIP_TILES: normal(tiles, CLIP_WIDTH),
        Signal.CLIP_PATCHES: normal(count, CLIP_WIDTH),
    }
    shapes = {
        Signal.CLS_ATTENTION: (HEADS, count),
        Signal.CLS_FEATURES: (tiles, ENCODER_WIDTH),
        Signal.ENCODER_FEATURES: (count, ENCODER_WIDTH),
        Signal.ENCODER_KEYS: (HEADS, count, 8),
        Signal.RECEIVED_ATTENTION: (HEADS, count),
    }
    for signal, shape in shapes.items():
        drawn_values = normal(blocks.get(signal, 1), *shape)
        is_attention = signal in (Signal.CLS_ATTENTION, Signal.RECEIVED_ATTENTION)
        values[signal] = drawn_values.softmax(dim=-1) if is_attention else drawn_values
    return values | _of_caller(layout, draw)


def _of_caller(layout: Layout, draw: torch.Generator) -> dict[Signal, Any]:
    """What the caller gives: the words of the question, and pictures with three masks each."""
    tile = layout.tiles[0]
    images = layout.tiles[-1].image + 1
    shape = (images, 1, 8 * tile.rows, 8 * tile.columns, 3)
    pixels = torch.randint(256, shape, generator=draw, dtype=torch.uint8)
    bright = (pixels[:, 0, ..., :2] > 150).movedim(-1, 1)
    return {
        Signal.TEXT_PIECES: tuple(QUESTION.split()),
        Signal.PICTURES: tuple(pixels),
        Signal.MASKS: tuple(bright),
    }


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
        pixels = torch.randn(4 * rows * columns, 3 * 2 * 4 * 4)
    ids = torch.tensor([[5, 6, start, *[image] * (rows * columns), end, 7, 8, 9, 10]])
    return model.eval(), {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == image).int(),
        "pixel_values": pixels,
        "image_grid_thw": torch.tensor([[1, 2 * rows, 2 * columns]]),
    }
