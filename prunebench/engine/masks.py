"""Masks: what an attention kernel needs to be told of a thinned sequence."""

from __future__ import annotations

import torch
from torch import Tensor

from prunebench.engine.stream import Stream


def attention_mask(
    stream: Stream, queries: int, fresh: int, kernel: str, like: Tensor
) -> Tensor | None:
    """The mask a layer's kernel needs for the last `queries` rows of a sequence.

    The sequence is the stream's columns and `fresh` tokens behind them. None wherever the kernel's
    own causal rule says the same. `like` gives device and dtype.
    """
    if "flash" in kernel:
        # explicit on purpose: without a mask, gaps in position_ids read as packed sequences
        needed = stream.padded or queries > 1
        return visible_keys(stream, fresh, like.device).long() if needed else None
    # without a mask sdpa lets the first query see the first key alone: right only where there is
    # nothing before it
    causal = kernel == "sdpa" and queries == stream.width + fresh
    if not stream.padded and stream.bias is None and (causal or queries == 1):
        return None
    return full_mask(stream, queries, fresh, kernel, like)


def full_mask(stream: Stream, queries: int, fresh: int, kernel: str, like: Tensor) -> Tensor:
    """[B, 1, queries, width + fresh] the same, written out.

    Boolean for sdpa, additive for eager and wherever keys have a bias, which sdpa takes as well.
    """
    keys = visible_keys(stream, fresh, like.device)
    total = keys.shape[1]
    place = torch.arange(total, device=like.device)
    # [queries, 1]: the queries are the last places of the sequence
    rows = place[total - queries :, None]
    # a padding row sees itself: a row that sees nothing is NaN, and NaN spreads through the values
    visible = (place <= rows) & keys[:, None, :] | (place == rows)
    if stream.bias is None and kernel == "sdpa":
        return visible[:, None]
    scores = torch.zeros(visible.shape, dtype=like.dtype, device=like.device)
    if stream.bias is not None:
        scores[..., : stream.width] += stream.key_bias(like.device)[:, None].to(like.dtype)
    return scores.masked_fill(~visible, torch.finfo(like.dtype).min)[:, None]


def visible_keys(stream: Stream, fresh: int, device: torch.device) -> Tensor:
    """[B, width + fresh] bool: columns that are no padding."""
    valid = stream.valid(device)
    return torch.cat([valid, valid.new_ones(valid.shape[0], fresh)], dim=1)
