"""Positions: the position ids of a thinned sequence, gaps included or closed up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from prunebench.engine.call import Call
from prunebench.engine.stream import EngineError, Stream


class Positions:
    """The position ids of one batch on its way through the decoder.

    `pinned` says that a prompt ends in its image. `record` gets the ids of every thinned sequence.
    `input_end` is the position behind which the answer goes on as the decoder counts, None where it
    keeps its own ids.
    """

    def __init__(self, call: Call, pinned: bool, record: list[Tensor]) -> None:
        self.call, self.pinned, self.record = call, pinned, record
        self.moved = False
        """Whether any stage between layers has closed up gaps."""
        self.input_end: Tensor | None = None
        self._ids: Tensor | None = None
        self._end: Tensor | None = None

    def note(self, ids: Tensor | None, stream: Stream) -> None:
        """The rotary module was given these ids [.., B, n], of the stream in the first layer."""
        self._ids = ids
        self._end = None if ids is None else self.end_of(ids, stream)

    @property
    def ids(self) -> Tensor:
        """[.., B, n] what the rotary module was given; raises EngineError where it was nothing."""
        if self._ids is None:
            raise EngineError("the decoder's rotary module was not given position ids")
        return self._ids

    @property
    def end(self) -> Tensor:
        """[.., B, 1] the position behind which the answer goes on, as the rotary module counts.

        Raises EngineError where the rotary module was given no ids.
        """
        if self._end is None:
            raise EngineError("the decoder's rotary module was not given position ids")
        return self._end

    @property
    def answer_start(self) -> Tensor | None:
        """[.., B, 1] the same as the decoder's own arguments count; None where nothing moved."""
        return self.input_end if self.input_end is not None else self._end

    def end_of(self, ids: Tensor, stream: Stream) -> Tensor:
        """[.., B, 1] the position behind which the answer goes on, of a stream's `ids` [.., B, n].

        It is the prompt's last; behind an image models themselves take the highest on any of
        M-RoPE's axes, while transformers' `generate` goes on from the last on each, and neither is
        corrected here. A fourth leading row of ids holds plain text positions and stands by itself.
        """
        drafts = self.call.drafts
        ids = ids[..., : ids.shape[-1] - drafts]
        if not self.pinned or self.call.generated:
            return ids[..., -1:]
        return highest_position(ids, stream.without(drafts))

    def narrowed(self, ids: Tensor, entered: Stream, stream: Stream, compact: bool) -> Tensor:
        """The ids of a stream, as a stage in front of which others have thinned it is shown them.

        `ids` [.., B or 1, S] are those of the wider stream that `entered`; `compact` closes up the
        gaps.
        """
        if stream.source is entered.source:
            return ids
        ids = gather(ids, entered.columns(stream, ids.device))
        return closed_up(ids, stream) if compact else ids

    def thinned(self, ids: Tensor, index: Tensor, stream: Stream, compact: bool) -> Tensor:
        """The ids of a narrower stream, whose columns are the columns `index` [B, n] of `ids`;
        `compact` closes up the gaps.
        """
        ids = gather(ids, index)
        if compact:
            ids = closed_up(ids, stream)
        self.record.append(ids)
        return ids

    def shift(self, ids: Tensor, stream: Stream) -> Tensor | None:
        """[.., B, 1] how far the end of the prompt has moved; None where nothing is closed up."""
        return self.end - self.end_of(ids, stream) if self.moved else None


def given_ids(kwargs: Mapping[str, Any], width: int, device: torch.device) -> Tensor:
    """[.., B or 1, S] the position ids among a decoder's arguments."""
    ids: Tensor | None = kwargs.get("position_ids")
    # what a decoder counts by itself where it is given no ids, padding included
    return torch.arange(width, device=device)[None] if ids is None else ids


def gather(values: Tensor, index: Tensor) -> Tensor:
    """Columns `index` [B, n] of position-like `values` [..., B or 1, S]."""
    batch, count = index.shape
    index = index.to(values.device)  # a model may lie on several
    values = values.expand(*values.shape[:-2], batch, values.shape[-1])
    return values.gather(-1, index.expand(*values.shape[:-1], count))


def closed_up(ids: Tensor, stream: Stream) -> Tensor:
    """Position ids [B, n] or [axes, B, n] with unused values closed up: "compact" positions.

    1-D ids become consecutive, in the order of the rows where a method gave them one. On M-RoPE's
    axes a value goes when no live token uses it on any axis, so rows and columns keep their order
    and text stays behind the image. A fourth leading row holds plain text positions, ranked by
    itself.
    """
    if ids.ndim == 3 and ids.shape[0] == 4:
        return torch.cat([closed_up(ids[0], stream)[None], closed_up(ids[1:], stream)])
    result = ids.clone()
    for row in range(len(stream.source)):
        start = stream.start(row)
        live = ids[..., row, start:]
        if ids.ndim == 2 and bool((stream.source[row].diff() < 0).any()):
            result[row, start:] = live.min() + torch.arange(live.shape[-1], device=ids.device)
            continue
        # flat, over all axes: a value goes only where none of them uses it
        values = live.flatten().sort().values
        # the rank of each among the distinct ones; `unique` would wait for the GPU to count these
        ranks = (values.diff() != 0).cumsum(0)
        ranks = torch.cat([ranks.new_zeros(1), ranks])
        # searched, a value is found where it first stands
        rank = ranks[torch.searchsorted(values, live.contiguous())]
        # the first live position stays where it is, which need not be 0
        result[..., row, start:] = rank + values[0]
    return result


def highest_position(ids: Tensor, stream: Stream) -> Tensor:
    """[.., B, 1] the highest position of any live token, taken over all of M-RoPE's axes.

    A fourth leading row of `ids` [.., B, n] holds plain text positions and stands by itself.
    """
    valid = stream.valid(ids.device)
    # padding has ids, too, which must not win
    highest = torch.where(valid, ids, 0).amax(-1, keepdim=True)
    if ids.ndim == 2:
        return highest
    axes = highest[-3:].amax(0, keepdim=True).expand_as(highest[-3:])
    # [:-3] is the row of text positions where there is one, and empty else
    return torch.cat([highest[:-3], axes])
