"""FlashVID's vectors: the stage before the language model, and the one inside."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from prunebench import Layout, Signal, Stage, Tile, llm
from prunebench.testing.case import Case
from prunebench.testing.vectors import Vector
from prunebench.tokens import VisualTokens

SETS = ("flashvid", "flashvid_inner")


def cases(method: Any, vector: Vector) -> Iterator[Case]:
    """Of the inner stage there are the last row of attention and the places in the prompt."""
    meta, tensors = vector.meta, vector.tensors
    count = int(meta["expected_count"])
    if vector.name.startswith("flashvid_inner"):
        attention = tensors["llm_attention"]
        size = attention.shape[-1]
        tokens = VisualTokens(
            torch.zeros(size, 0),
            Layout((Tile(1, size),)),
            torch.arange(size),
            signals={Signal.LAST_QUERY_ATTENTION: attention},
        )
        stage = Stage(llm(1), count)
        yield Case(method(), (stage,), tokens, prompt=positions(tensors["image_mask"].bool()))
        return
    pruner = method(
        segments=meta["min_segments"],
        threshold=meta["segment_threshold"],
        selected=meta["alpha"],
        events=meta["token_selection"] == "attn_div_v2",
        alike=meta["temporal_threshold"],
    )
    received = tensors["received_attention"].flatten()[None, None]
    tokens = replace(vector.tokens(), signals={Signal.RECEIVED_ATTENTION: received})
    yield Case(pruner, (Stage(pruner.site(), count),), tokens)


def positions(is_image: Tensor) -> Callable[[Tensor], Mapping[str, Tensor]]:
    """What the indices kept say of position ids: those of text and of what is kept stay."""

    def answers(keep: Tensor) -> Mapping[str, Tensor]:
        stays = ~is_image
        stays[is_image.nonzero()[keep, 0]] = True
        return {"position_ids": stays.nonzero()[:, 0]}

    return answers
