"""Views: how each signal of the decoder is read, off a layer's heads or off the rows at a site."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from prunebench.budget import Stage
from prunebench.engine.attention import Heads
from prunebench.engine.call import Call
from prunebench.engine.stream import LiveTokens, Stream, sent
from prunebench.signals import Signal

CHUNK = 256
"""Queries whose attention is worked out at once."""


@dataclass(frozen=True)
class Offer:
    """One sample's visual tokens at a stage, which the method chooses from."""

    row: int
    stage: Stage
    live: LiveTokens

    @property
    def has_choice(self) -> bool:
        """Whether the method is asked: it may keep something, and there is something to keep."""
        return self.stage.keep > 0 and len(self.live) > 0


# ---- a layer's heads -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Columns:
    """Where one sample's prompt is in the tensors of a stream; `marks` [S] bool says which prompt
    positions are visual.
    """

    row: int
    stream: Stream
    marks: Tensor

    @cached_property
    def visual(self) -> Tensor:
        """[N] the columns of the visual tokens that are alive."""
        return self.stream.visual(self.row, self.marks).columns

    @cached_property
    def text_behind(self) -> Tensor:
        """[Q] the columns of the text behind the first visual token."""
        visual = self.marks[self.stream.source[self.row]]
        text = (visual.cumsum(0) > 0) & ~visual
        return text.nonzero()[:, 0] + self.stream.start(self.row)


@dataclass(frozen=True)
class HeadsView:
    """One layer's queries, keys and values as they concern one sample.

    `columns` say where its prompt is among the keys; a probe's heads have one key more, its own.
    """

    heads: Heads
    columns: Columns

    @property
    def row(self) -> int:
        """The sample's number."""
        return self.columns.row

    @property
    def device(self) -> torch.device:
        """Where the layer is."""
        return self.heads.key.device

    @cached_property
    def valid(self) -> Tensor:
        """[S] bool: columns that are no padding."""
        return self.columns.stream.valid(self.device)[self.row]

    @cached_property
    def bias(self) -> Tensor | None:
        """[S] what is added to the scores of the columns' keys; None where nothing is."""
        stream = self.columns.stream
        return None if stream.bias is None else stream.key_bias(self.device)[self.row]

    def attention(self, places: Tensor) -> Tensor:
        """[H, R, S] what the query columns `places` [R] pay to all columns."""
        return self.heads.rows(self.row, sent(places, self.device), self.valid)

    def paid_to_tokens(self, places: Tensor) -> Tensor:
        """[H, R, N] what the query columns `places` [R] pay to the visual tokens."""
        # in parts: what one pays to all columns is cut to the visual ones before the next is made
        parts = [self.of_tokens(self.attention(part), 2) for part in places.split(CHUNK)]
        return torch.cat(parts, dim=1)

    def of_tokens(self, values: Tensor, axis: int) -> Tensor:
        """`values` with their axis of columns cut to those of the visual tokens."""
        return values.index_select(axis, sent(self.columns.visual, values.device))

    def of_prompt(self, heads: Tensor) -> Tensor:
        """[.., S, d_h] the sample's own rows of `heads` [B, .., width, d_h]."""
        # a copy: what is shown may be changed in place, and this may be the model's own cache
        return heads[self.row, :, self.columns.stream.start(self.row) :].clone()


def _last_query(view: HeadsView) -> Tensor:
    """[H, N] attention of the prompt's last position."""
    # padding is on the left, so the last column is every sample's last position
    paid = view.attention(torch.tensor([view.columns.stream.width - 1]))
    return view.of_tokens(paid[:, 0], 1)


def _text_rows(view: HeadsView) -> Tensor:
    """[H, Q, N] attention of the text positions behind the first visual one."""
    return view.paid_to_tokens(view.columns.text_behind)


def _visual_rows(view: HeadsView) -> Tensor:
    """[H, N, N] attention of the visual positions."""
    return view.paid_to_tokens(view.columns.visual)


def _keys(view: HeadsView) -> Tensor:
    """[H_kv, N, d_h] keys of the visual tokens."""
    return view.of_tokens(view.heads.key[view.row], 1)


def _prompt_queries(view: HeadsView) -> Tensor:
    """[H, S, d_h] queries of the whole prompt."""
    return view.of_prompt(view.heads.query)


def _prompt_keys(view: HeadsView) -> Tensor:
    """[H_kv, S, d_h] keys of the whole prompt."""
    return view.of_prompt(view.heads.key)


def _prompt_values(view: HeadsView) -> Tensor:
    """[H_kv, S, d_h] values of the whole prompt."""
    return view.of_prompt(view.heads.value)


def _probe_logits(view: HeadsView) -> Tensor:
    """[H, N] scaled products of the probe's query and the tokens' keys."""
    # [H, 1, S + 1]: the probe is the only query
    return view.of_tokens(view.heads.logits(view.row)[:, 0], 1)


def _probe_log_attention(view: HeadsView) -> Tensor:
    """[H, N] log of the attention that the probe pays."""
    valid, bias = view.valid, view.bias
    # the last key is the probe's own, which it sees and which no stage has given a bias
    visible = torch.cat([valid, valid.new_ones(1)])
    scores = view.heads.logits(view.row)[:, 0]
    if bias is not None:
        scores = scores + torch.cat([bias, bias.new_zeros(1)])
    log_attention = scores.masked_fill(~visible, float("-inf")).log_softmax(-1)
    return view.of_tokens(log_attention, 1)


FROM_HEADS: Mapping[Signal, Callable[[HeadsView], Tensor]] = {
    Signal.LAST_QUERY_ATTENTION: _last_query,
    Signal.NEXT_QUERY_ATTENTION: _last_query,
    Signal.TEXT_ATTENTION: _text_rows,
    Signal.NEXT_TEXT_ATTENTION: _text_rows,
    Signal.VISUAL_ATTENTION: _visual_rows,
    Signal.KEYS: _keys,
    Signal.PROMPT_QUERIES: _prompt_queries,
    Signal.PROMPT_KEYS: _prompt_keys,
    Signal.PROMPT_VALUES: _prompt_values,
    Signal.NEXT_QUERIES: _prompt_queries,
    Signal.NEXT_KEYS: _prompt_keys,
    Signal.NEXT_ROTATED_KEYS: _prompt_keys,
    Signal.PROBE_LOGITS: _probe_logits,
    Signal.PROBE_LOG_ATTENTION: _probe_log_attention,
}
"""How each signal of an LLM layer's attention is read; axes over tokens are those of all that are
alive.

Its origin says which layer's: the one before the site, the one behind it, or the probe's.
"""

UNROTATED = frozenset({Signal.NEXT_QUERIES, Signal.NEXT_KEYS})
"""Those that are read of heads which are not rotated."""

OF_ALL_QUERIES = frozenset({Signal.NEXT_QUERIES, Signal.NEXT_TEXT_ATTENTION})
"""Of those of the layer behind a site the ones that look at more queries than the prompt's last."""

BY_COUNT = frozenset({Signal.TEXT_ATTENTION, Signal.NEXT_TEXT_ATTENTION, Signal.VISUAL_ATTENTION})
"""Those whose FLOPs depend on how many positions of the prompt are text or visual."""


# ---- the rows at a site --------------------------------------------------------------------------


@dataclass(frozen=True)
class RowsView:
    """What enters a site, as it concerns one sample.

    `ids` [.., B or 1, width] are the position ids of the rows `hidden` [B, width, D].
    """

    call: Call
    offer: Offer
    hidden: Tensor
    stream: Stream
    ids: Tensor

    @cached_property
    def text(self) -> Tensor:
        """[M] the places of its text."""
        live = self.offer.live.text
        # drafts lie at the end; they are alive and not visual, but no text of the prompt
        return live[: len(live) - self.call.drafts].nonzero()[:, 0]


def _text_features(view: RowsView) -> Tensor:
    """[M, D] the text's rows of the stream."""
    row = view.offer.row
    columns = view.text + view.stream.start(row)
    return view.hidden[row, sent(columns, view.hidden.device)]


def _text_pieces(view: RowsView) -> tuple[str, ...]:
    """M strings: what each of these rows says."""
    row = view.offer.row
    pieces = view.call.pieces[row]
    positions = view.stream.source[row][view.text]
    return tuple(pieces[position] for position in positions.tolist())


def _visual_places(view: RowsView) -> Tensor:
    """[N] where the offered tokens stand in the prompt."""
    return view.offer.live.places.clone()


def _text_places(view: RowsView) -> Tensor:
    """[M] where its text stands there."""
    return view.text.clone()


def _position_ids(view: RowsView) -> Tensor:
    """[P, S] the prompt's position ids."""
    row, stream = view.offer.row, view.stream.without(view.call.drafts)
    # they may come as one row for the whole batch
    own = view.ids[..., min(row, view.ids.shape[-2] - 1), stream.start(row) : stream.width]
    if own.dim() == 1:
        return own[None].clone()
    # of four axes the first counts text alone
    return own[-3:].clone()


FROM_ROWS: Mapping[Signal, Callable[[RowsView], Any]] = {
    Signal.TEXT_FEATURES: _text_features,
    Signal.TEXT_PIECES: _text_pieces,
    Signal.VISUAL_PLACES: _visual_places,
    Signal.TEXT_PLACES: _text_places,
    Signal.POSITION_IDS: _position_ids,
}
"""How each signal that needs no layer's attention is read at a site."""
