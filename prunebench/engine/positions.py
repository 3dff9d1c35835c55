"""Positions: the position ids of a thinned sequence, gaps included or closed up."""

from __future__ import annotations

import torch
from torch import Tensor

from prunebench.engine.stream import Stream


def gather(values: Tensor, index: Tensor) -> Tensor:
    """Columns `index` [B, n] of position-like `values` [..., B or 1, S]."""
    batch, count = index.shape
    values = values.expand(*values.shape[:-2], batch, values.shape[-1])
    return values.gather(-1, index.expand(*values.shape[:-1], count))


def closed_up(ids: Tensor, stream: Stream) -> Tensor:
    """Position ids [B, n] or [axes, B, n] with unused values closed up: "compact" positions.

    1-D ids become consecutive. On M-RoPE's axes a value goes when no live token uses it on any
    axis, so rows and columns keep their order and text stays behind the image. A fourth leading row
    holds plain text positions, ranked by itself.
    """
    if ids.ndim == 3 and ids.shape[0] == 4:
        return torch.cat([closed_up(ids[0], stream)[None], closed_up(ids[1:], stream)])
    result = ids.clone()
    for row in range(len(stream.source)):
        start = stream.start(row)
        live = ids[..., row, start:]
        values = torch.unique(live)
        rank = torch.searchsorted(values, live.contiguous())
        result[..., row, start:] = rank + values[0]
    return result


def last_position(ids: Tensor) -> Tensor:
    """[.., B, 1] the position of the last column of `ids` [.., B, n]."""
    return ids[..., -1:]


def highest_position(ids: Tensor, stream: Stream) -> Tensor:
    """[.., B, 1] the highest position of any live token, taken over all of M-RoPE's axes.

    A fourth leading row of `ids` [.., B, n] holds plain text positions and stands by itself.
    """
    valid = stream.valid(ids.device)
    highest = torch.where(valid, ids, 0).amax(-1, keepdim=True)
    if ids.ndim == 2:
        return highest
    axes = highest[-3:].amax(0, keepdim=True).expand_as(highest[-3:])
    return torch.cat([highest[:-3], axes])
