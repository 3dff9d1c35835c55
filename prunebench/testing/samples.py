"""Samples: random visual tokens and a random stock model, for an author's own tests and for the
checks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from prunebench.pruner import Facts
from prunebench.sites import INPUT, Site
from prunebench.tokens import ENCODER, Layout, Signal, Tile, VisualTokens

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
    texts: int = 1,
    site: Site = INPUT,
    dtype: torch.dtype = torch.float32,
) -> VisualTokens:
    """A sample of random features and plausible signals (attention rows sum to less than 1), equal
    for equal `seed`.

    `blocks` says for how many encoder blocks a signal is made (1), `texts` of how many texts there
    are CLIP embeddings. With TILES among the `needs` the first tile is a thumbnail and the others
    are crops of the same image, else every tile is an image of its own.
    """
    needs = frozenset(needs)
    one = Signal.TILES in needs
    kinds = ["thumbnail", *["crop"] * (tiles - 1)] if one else ["image"] * tiles
    layout = Layout(
        tuple(
            Tile(rows, columns, kind, 0 if one else i, newlines=newlines)
            for i, kind in enumerate(kinds)
        )
    )
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw)

    count, heads, text = len(layout), HEADS, 7
    features = normal(count, dim)  # first: the same whatever is asked for
    paid = (2 * normal(heads, text, count + text)).softmax(dim=-1)[..., :count]
    signals = {
        Signal.LAST_QUERY_ATTENTION: paid[:, -1],
        Signal.NEXT_QUERY_ATTENTION: (2 * normal(heads, count + text)).softmax(dim=-1)[:, :count],
        Signal.TEXT_ATTENTION: paid,
        Signal.KEYS: normal(heads // 2, count, 8),
        Signal.TEXT_FEATURES: normal(text, dim),
        Signal.PROBE_LOGITS: 2 * normal(heads, count),
        Signal.PROBE_LOG_ATTENTION: normal(heads, count + text).log_softmax(dim=-1)[:, :count],
        Signal.CLIP_TEXT: normal(texts, CLIP_WIDTH),
        Signal.CLIP_TILES: normal(tiles, CLIP_WIDTH),
        Signal.CLIP_PATCHES: normal(count, CLIP_WIDTH),
    }
    depth = {signal: (blocks or {}).get(signal, 1) for signal in ENCODER & needs}
    shapes = {
        Signal.CLS_ATTENTION: (heads, count),
        Signal.RECEIVED_ATTENTION: (heads, count),
        Signal.ENCODER_FEATURES: (count, ENCODER_WIDTH),
        Signal.ENCODER_KEYS: (heads, count, 8),
        Signal.CLS_FEATURES: (tiles, ENCODER_WIDTH),
    }
    for signal in sorted(depth):
        made = normal(depth[signal], *shapes[signal])
        signals[signal] = made.softmax(dim=-1) if "attention" in signal else made
    pixels = torch.randint(
        256, (tiles, 1, 8 * rows, 8 * columns, 3), generator=draw, dtype=torch.uint8
    )
    given: dict[Signal, Any] = {
        Signal.TEXT_PIECES: tuple(QUESTION.split()),
        Signal.PICTURES: tuple(pixels[:1] if one else pixels),
        Signal.MASKS: tuple((pixels[:1] if one else pixels)[:, 0, ..., :2].movedim(-1, 1) > 150),
    }
    needs = needs - {Signal.TILES}
    return VisualTokens(
        features=features.to(dtype),
        layout=layout,
        index=torch.arange(count),
        site=site,
        question=QUESTION,
        seed=seed,
        signals={s: given[s] if s in given else signals[s].to(dtype) for s in sorted(needs)},
    )


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
            "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": layers,
            "num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
            "rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0},
        },
        vision_config={
            "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "patch_size": 4, "window_size": 16,
            "out_hidden_size": 32, "fullatt_block_indexes": [1],
        },
        image_token_id=image, video_token_id=video, vision_start_token_id=start, vision_end_token_id=end,
    )  # fmt: skip
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
