"""Readings: how each signal of the vision encoder comes out of a block, one reading a signal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from prunebench.engine.attention import Heads
from prunebench.tokens import Signal


@dataclass(frozen=True)
class Reading:
    """How one signal is read in one block, and which axis of what is read runs over encoder rows.

    `from_heads` makes it of the queries and keys of the block's attention. Without it the signal is
    the rows themselves: of the block's output, or of what a CLIP makes of the same crops.
    `of_tiles` says that the signal is about tiles and not about tokens, so that it is read in the
    rows of the CLS tokens.
    """

    axis: int
    from_heads: Callable[[Heads], Tensor] | None = None
    of_tiles: bool = False


def keys(heads: Heads) -> Tensor:
    """[H, R, d] the keys of all sequences, one sequence behind the other."""
    # [B, H, S, d] to [H, B * S, d]
    return heads.key.detach().transpose(0, 1).flatten(1, 2)


def cls_attention(heads: Heads) -> Tensor:
    """[H, R] attention that the first row of every sequence, its CLS token, pays to the rows of
    that sequence.
    """
    query = heads.query[:, :, :1].float()
    logits = query @ heads.key.float().transpose(2, 3) * heads.scaling
    if heads.mask is not None:
        logits = _masked(logits, heads.mask[:, :, :1])
    # [B, H, 1, S] to [H, B * S]
    return logits.softmax(dim=-1)[:, :, 0].transpose(0, 1).flatten(1)


def received_attention(heads: Heads) -> Tensor:
    """[H, R] attention received, averaged over the queries of the same sequence.

    It is made one head at a time, because the whole map is quadratic in the length.
    """
    # [B, 1, S, S] to [B, S, S], for one head at a time
    mask = None if heads.mask is None else heads.mask[:, 0]
    sequences = []
    for start, end in _bounds(heads):
        query = heads.query[:, :, start:end].float()
        key = heads.key[:, :, start:end].float()
        rows = []
        for head in range(query.shape[1]):
            logits = query[:, head] @ key[:, head].transpose(1, 2) * heads.scaling
            if mask is not None:
                logits = _masked(logits, mask)
            rows.append(logits.softmax(-1).mean(1))
        # [H, B, n] to [H, B * n]
        sequences.append(torch.stack(rows).flatten(1))
    return torch.cat(sequences, dim=1)


READINGS = {
    Signal.ENCODER_KEYS: Reading(axis=1, from_heads=keys),
    Signal.CLS_ATTENTION: Reading(axis=1, from_heads=cls_attention),
    Signal.RECEIVED_ATTENTION: Reading(axis=1, from_heads=received_attention),
    Signal.ENCODER_FEATURES: Reading(axis=0),
    Signal.CLS_FEATURES: Reading(axis=0, of_tiles=True),
    Signal.CLIP_PATCHES: Reading(axis=0),
    Signal.CLIP_TILES: Reading(axis=0, of_tiles=True),
}
"""The signals that exist once the vision encoder has run."""


def _bounds(heads: Heads) -> Iterator[tuple[int, int | None]]:
    """Where each packed sequence starts and ends; everything where nothing is packed."""
    if heads.lengths is None or len(heads.lengths) <= 2:
        yield 0, None
        return
    yield from pairwise(heads.lengths.tolist())


def _masked(logits: Tensor, mask: Tensor) -> Tensor:
    """The logits without those that a mask hides, which is boolean or added to them."""
    if mask.dtype == torch.bool:
        return logits.masked_fill(~mask, float("-inf"))
    return logits + mask
