"""Readings: how each signal of the vision encoder comes out of a block, one reading a signal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from prunebench.tokens import Signal

if TYPE_CHECKING:
    from prunebench.engine.attention import Heads

CHUNK = 256
"""Queries whose attention is worked out at once."""


class Queries(IntEnum):
    """Over which queries of a sequence received attention is averaged: where a CLS token's does not
    count, all but the first or all but the last.
    """

    ALL = 0
    BUT_FIRST = 1
    BUT_LAST = 2

    @classmethod
    def without(cls, row: int | None) -> Queries:
        """Those but for one row of every sequence, 0 or -1; all for None."""
        return {None: cls.ALL, 0: cls.BUT_FIRST, -1: cls.BUT_LAST}[row]


AT_ONCE = 2**20
"""Scores up to which all heads of a sequence are worked out together."""


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


def queries(heads: Heads) -> Tensor:
    """[H, R, d] the queries of all sequences, one sequence behind the other."""
    return _in_a_row(heads.query)


def keys(heads: Heads) -> Tensor:
    """[H, R, d] the keys."""
    return _in_a_row(heads.key)


def values(heads: Heads) -> Tensor:
    """[H, R, d] the values."""
    return _in_a_row(heads.value)


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
    """[3, H, R] attention received, averaged over the queries of the same sequence: all of them, or
    all but one, as `Queries` tells them apart.

    The whole map is quadratic in the length, so that it is made in parts: one head and some queries
    at a time, or all heads of a short sequence.
    """
    sequences = []
    for start, end in _bounds(heads):
        query = heads.query[:, :, start:end].float() * heads.scaling
        key = heads.key[:, :, start:end].float()
        parts = query.shape[1] if query[..., 0].numel() * key.shape[2] > AT_ONCE else 1
        means = []
        for some_queries, some_keys in zip(query.chunk(parts, 1), key.chunk(parts, 1), strict=True):
            means.append(_received(some_queries, some_keys, heads.mask))
        # [3, B, H, n] to [3, H, B * n]
        sequences.append(torch.cat(means, dim=2).transpose(1, 2).flatten(2))
    return torch.cat(sequences, dim=2)


def _received(query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
    """[3, B, H, n] what keys [B, H, n, d] receive of scaled queries [B, H, n, d] on average."""
    total = key.new_zeros(key.shape[:3])
    first, last = total, total
    for start in range(0, query.shape[2], CHUNK):
        end = start + CHUNK
        logits = query[:, :, start:end] @ key.transpose(2, 3)
        if mask is not None:
            # a mask of padding alone has one row for all queries
            rows = mask if mask.shape[2] == 1 else mask[:, :, start:end]
            logits = _masked(logits, rows)
        weights = logits.softmax(-1)
        total = total + weights.sum(2)
        first = weights[:, :, 0] if start == 0 else first
        last = weights[:, :, -1]
    count = query.shape[2]
    # a CLS token that stands alone has nothing to be told apart from
    others = max(1, count - 1)
    return torch.stack([total / count, (total - first) / others, (total - last) / others])


READINGS = {
    Signal.ENCODER_KEYS: Reading(axis=1, from_heads=keys),
    Signal.ENCODER_VALUES: Reading(axis=1, from_heads=values),
    Signal.CLS_QUERIES: Reading(axis=1, from_heads=queries, of_tiles=True),
    Signal.CLS_KEYS: Reading(axis=1, from_heads=keys, of_tiles=True),
    Signal.CLS_VALUES: Reading(axis=1, from_heads=values, of_tiles=True),
    Signal.CLS_ATTENTION: Reading(axis=1, from_heads=cls_attention),
    Signal.RECEIVED_ATTENTION: Reading(axis=2, from_heads=received_attention),
    Signal.ENCODER_FEATURES: Reading(axis=0),
    Signal.CLS_FEATURES: Reading(axis=0, of_tiles=True),
    Signal.CLIP_PATCHES: Reading(axis=0),
    Signal.CLIP_TILES: Reading(axis=0, of_tiles=True),
}
"""The signals that exist once the vision encoder has run."""


def _in_a_row(part: Tensor) -> Tensor:
    """Heads [B, H, S, d] of all sequences as [H, B * S, d]."""
    return part.detach().transpose(0, 1).flatten(1, 2)


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
