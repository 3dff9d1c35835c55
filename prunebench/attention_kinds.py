"""Attention kinds: what the vision encoder looks at, for methods that were made for its CLS
token.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from prunebench.reads import Reads
from prunebench.signals import Signal
from prunebench.tokens import VisualTokens

KINDS = ("auto", "cls", "received")


def check_attention(kind: str) -> None:
    """Raise ValueError for a setting `attention` that is none of `KINDS`."""
    if kind not in KINDS:
        raise ValueError(f"attention is {kind!r}; it is 'auto', 'cls' or 'received'")


def attention_reads(kind: str, blocks: Sequence[int] = ()) -> Reads:
    """What a method reads for its setting `attention`, in these encoder blocks or in the one that
    the projector reads.

    "cls" is the attention that the CLS token pays, "received" what a token's patches receive from
    all queries, and "auto" the first where the encoder has a CLS token, else the second.
    """
    signal = Signal.RECEIVED_ATTENTION if kind == "received" else Signal.CLS_ATTENTION
    return Reads(frozenset({signal}), blocks={signal: tuple(blocks)} if blocks else {})


def summary_reads(kind: str, blocks: Sequence[int] = (-1,)) -> Reads:
    """What a method reads, for its setting `attention`, of every tile as a whole: behind these
    encoder blocks its CLS token or, in its place, all patches.
    """
    signal = Signal.ENCODER_FEATURES if kind == "received" else Signal.CLS_FEATURES
    return Reads(frozenset({signal}), blocks={signal: tuple(blocks)})


def attention_stand_ins(kind: str) -> dict[Signal, Signal]:
    """What `Pruner.stand_ins` says for the setting `attention`."""
    if kind != "auto":
        return {}
    return {
        Signal.CLS_ATTENTION: Signal.RECEIVED_ATTENTION,
        Signal.CLS_FEATURES: Signal.ENCODER_FEATURES,
    }


def encoder_attention(tokens: VisualTokens) -> Tensor:
    """[B, H, N] what `attention_reads` asked for, in float32: of the two the one that is shown."""
    of_cls = Signal.CLS_ATTENTION in tokens.signals
    attention = tokens.cls_attention if of_cls else tokens.received_attention
    return attention.float()


def tile_summaries(tokens: VisualTokens) -> Tensor:
    """[B, T, D_v] what `summary_reads` asked for, in float32: the CLS token of every tile, or the
    mean of its patches where the encoder has none, or tiles are regions and have none each.
    """
    count = len(tokens.tiles)
    if Signal.CLS_FEATURES in tokens.signals and tokens.cls_features.shape[1] == count:
        return tokens.cls_features.float()
    features = tokens.encoder_features.float()
    tile = tokens.tile.to(features.device)
    is_patch = (~tokens.newline).to(features)
    sums = features.new_zeros(len(features), count, features.shape[-1])
    sums = sums.index_add(1, tile, features * is_patch[:, None])
    sizes = is_patch.new_zeros(count).index_add(0, tile, is_patch)
    return sums / sizes.clamp(min=1)[:, None]


def whole_summary(tokens: VisualTokens, summaries: Tensor, tiles: Sequence[int]) -> Tensor:
    """[..., D_v] the mean of some tiles' `summaries` [..., T, D_v], by their patches."""
    sizes = torch.bincount(tokens.tile[~tokens.newline], minlength=len(tokens.tiles))
    weights = sizes[list(tiles)].to(summaries)
    weighed = summaries[..., list(tiles), :] * weights[:, None]
    return weighed.sum(-2) / weights.sum().clamp(min=1)
