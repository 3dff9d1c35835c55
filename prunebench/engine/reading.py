"""Reading: what a pruner is shown of one batch, and where each signal of the decoder comes from."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from prunebench.budget import Stage
from prunebench.engine.attention import Heads, dry_run
from prunebench.engine.behind import CachedPrompt, aside
from prunebench.engine.cache import checked
from prunebench.engine.call import Call
from prunebench.engine.clip import load_clip
from prunebench.engine.encoder import Observed, required
from prunebench.engine.frame import Kwargs
from prunebench.engine.ready import Ready
from prunebench.engine.setup import Setup
from prunebench.engine.stream import EngineError, LiveTokens, Stream, sent
from prunebench.pruner import contained
from prunebench.signals import BEFORE, BEHIND, PROBE, Signal
from prunebench.sites import Site
from prunebench.tokens import Layout, VisualTokens


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


@dataclass(frozen=True)
class HeadsView:
    """One layer's queries and keys as they concern one sample.

    `stream` is what the keys belong to; a probe's heads have one key more, its own. `marks` [S]
    bool says which prompt positions are visual.
    """

    heads: Heads
    row: int
    stream: Stream
    marks: Tensor

    def attention(self, places: Tensor) -> Tensor:
        """[H, R, S] what the query columns `places` [R] pay to all columns."""
        device = self.heads.key.device
        valid = self.stream.valid(device)[self.row]
        return self.heads.rows(self.row, sent(places, device), valid, self.bias)

    @property
    def bias(self) -> Tensor | None:
        """[S] what is added to the scores of the columns' keys; None where nothing is."""
        if self.stream.bias is None:
            return None
        return self.stream.key_bias(self.heads.key.device)[self.row]

    def text_behind(self) -> Tensor:
        """[Q] the columns of the text behind the first visual token."""
        visual = self.marks[self.stream.source[self.row]]
        text = (visual.cumsum(0) > 0) & ~visual
        return text.nonzero()[:, 0] + self.stream.start(self.row)


def _last_query(view: HeadsView) -> Tensor:
    """[H, S] attention of the prompt's last position."""
    # padding is on the left, so the last column is every sample's last position
    return view.attention(torch.tensor([view.stream.width - 1]))[:, 0]


def _text_rows(view: HeadsView) -> Tensor:
    """[H, Q, S] attention of the text positions behind the first visual one."""
    return view.attention(view.text_behind())


def _keys(view: HeadsView) -> Tensor:
    """[H_kv, S, d_h] keys."""
    return view.heads.key[view.row]


def _probe_logits(view: HeadsView) -> Tensor:
    """[H, S + 1] scaled products of the probe's query and all keys, its own the last."""
    # [H, 1, S + 1]: the probe is the only query
    return view.heads.logits(view.row)[:, 0]


def _probe_log_attention(view: HeadsView) -> Tensor:
    """[H, S + 1] log of the attention that the probe pays."""
    valid = view.stream.valid(view.heads.key.device)[view.row]
    # the last key is the probe's own, which it sees and which no stage has given a bias
    visible = torch.cat([valid, valid.new_ones(1)])
    scores = _probe_logits(view)
    if view.bias is not None:
        scores = scores + torch.cat([view.bias, view.bias.new_zeros(1)])
    return scores.masked_fill(~visible, float("-inf")).log_softmax(-1)


FROM_HEADS: Mapping[Signal, Callable[[HeadsView], Tensor]] = {
    Signal.LAST_QUERY_ATTENTION: _last_query,
    Signal.NEXT_QUERY_ATTENTION: _last_query,
    Signal.TEXT_ATTENTION: _text_rows,
    Signal.KEYS: _keys,
    Signal.PROBE_LOGITS: _probe_logits,
    Signal.PROBE_LOG_ATTENTION: _probe_log_attention,
}
"""How each signal of an LLM layer's attention is read, over all columns of the stream.

Its origin says which layer's: the one before the site, the one behind it, or the probe's.
"""


@dataclass(frozen=True)
class RowsView:
    """What enters a site, as it concerns one sample: `text` [M] are its text's places."""

    reading: Reading
    offer: Offer
    hidden: Tensor
    stream: Stream
    text: Tensor


def _text_features(view: RowsView) -> Tensor:
    """[M, D] the text's rows of the stream."""
    row = view.offer.row
    columns = view.text + view.stream.start(row)
    return view.hidden[row, sent(columns, view.hidden.device)]


def _text_pieces(view: RowsView) -> tuple[str, ...]:
    """M strings: what each of these rows says."""
    row = view.offer.row
    pieces = view.reading.call.pieces[row]
    positions = view.stream.source[row][view.text]
    return tuple(pieces[position] for position in positions.tolist())


def _clip_text(view: RowsView) -> Tensor:
    """[M, P] CLIP's embeddings of the method's texts."""
    setup, row = view.reading.setup, view.offer.row
    notes = setup.trace.samples[row].notes
    return clip_texts(setup.ready, view.reading.call.questions[row], view.hidden, notes)


def clip_texts(ready: Ready, question: str | None, like: Tensor, notes: list[str]) -> Tensor:
    """[M, P] CLIP's embeddings of the texts that a method makes of a question.

    `like` gives device and dtype; a note says so where CLIP could not read them all.
    """
    clip = load_clip(str(ready.clip), like.device, like.dtype)
    with contained(ready.name, "reads.texts"):
        texts = ready.reads.texts(question or "")
    embeddings, cut = clip.texts(texts)
    if cut:
        notes.append(f"{cut} texts were longer than CLIP reads and were cut off")
    return embeddings


FROM_ROWS: Mapping[Signal, Callable[[RowsView], Any]] = {
    Signal.TEXT_FEATURES: _text_features,
    Signal.TEXT_PIECES: _text_pieces,
    Signal.CLIP_TEXT: _clip_text,
}
"""How each signal that needs no layer's attention is read at a site."""


@dataclass(frozen=True)
class Reading:
    """What may be shown of one batch.

    `observed` is what was read in the vision encoder. `memos` are a dict a sample, which its stages
    share; `over_columns` holds, until the stage, what was read of the layers' attention: by signal
    and sample a tensor over all columns of the stream.
    """

    setup: Setup
    call: Call
    observed: Observed
    memos: Sequence[dict[str, Any]]
    over_columns: dict[Signal, dict[int, Tensor]] = field(default_factory=dict)

    # ---- attention -------------------------------------------------------------------------------

    def read_before(self, site: Site, rows: list[int], stream: Stream, heads: Heads) -> None:
        """Keep of a layer's attention what the site behind it reads, for the samples `rows`."""
        # once is enough: the same layer attends again at every step of the answer
        self.setup.unwatch()
        signals = self.setup.ready.reads.signals_at(site) & BEFORE
        work = self._work(site, signals, rows, heads.key.shape)
        with self.setup.trace.selecting(heads.key.device, rows, work):
            self._keep(signals, rows, stream, heads.without(self.call.drafts))

    def read_behind(
        self, site: Site, rows: list[int], stream: Stream, hidden: Tensor, kwargs: Kwargs
    ) -> None:
        """Run the norm and projections of the layer behind the site; keep what is read there."""
        signals = self.setup.ready.reads.signals_at(site) & BEHIND
        work = self._work(site, signals, rows, hidden.shape)
        with self.setup.trace.selecting(hidden.device, rows, work):
            layer = self.setup.layers[site.layer]
            heads = dry_run(layer, self.setup.attention(site.layer), hidden, kwargs)
            self._keep(signals, rows, stream, heads.without(self.call.drafts))

    def read_probe(
        self,
        site: Site,
        rows: list[int],
        streams: Sequence[Stream],
        end: Tensor,
        hidden: Tensor,
        kwargs: Kwargs,
    ) -> None:
        """Run the method's probe token behind the prompt, through the layers before the site.

        `streams` are those of these layers, the last one that of the site; `end` [.., B, 1] is the
        position that the probe stands behind.
        """
        token = self._probe_token(hidden)
        setup, drafts, batch = self.setup, self.call.drafts, len(hidden)
        cache = checked(kwargs.get("past_key_values"))
        before = [stream.without(drafts) for stream in streams[:-1]]
        signals = setup.ready.reads.signals_at(site) & PROBE
        work = self._work(site, signals, rows, tuple(stream.width for stream in streams))
        with (
            _without_drafts(cache, drafts),
            setup.trace.selecting(hidden.device, rows, work),
        ):
            _, heads = aside(
                setup.parts,
                setup.model,
                token[0].to(hidden).expand(batch, 1, -1),
                CachedPrompt(before, cache, kwargs),
                added=token,
                # position ids may come as one row for the whole batch
                ids=end.expand(*end.shape[:-2], batch, 1) + 1,
                layer=site.layer - 1,
            )
            if heads is None:
                raise EngineError(f"layer {site.layer - 1} never called its attention function")
            self._keep(signals, rows, streams[-1], heads)

    def _probe_token(self, hidden: Tensor) -> Tensor:
        """[L, D] the method's probe; raises EngineError where it has none or one that fits not."""
        name, probe = self.setup.ready.name, self.setup.ready.reads.probe
        if probe is None:
            raise EngineError(
                f"{name} reads the attention of a probe token, but its reads name none"
            )
        with contained(name, "reads.probe"):
            token = probe()
        shape = (self.setup.depth, hidden.shape[-1])
        if token.shape != shape:
            raise EngineError(
                f"{name}'s probe is {list(token.shape)}; this model takes {list(shape)}"
            )
        return token

    def _keep(
        self, signals: frozenset[Signal], rows: list[int], stream: Stream, heads: Heads
    ) -> None:
        """Read the signals; `heads` lack the drafts that may be in the stream."""
        prompt = stream.without(self.call.drafts)
        for signal in signals:
            reader, values = FROM_HEADS[signal], {}
            for row in rows:
                values[row] = reader(HeadsView(heads, row, prompt, self.call.visual[row]))
            self.over_columns[signal] = values

    def _work(
        self, site: Site, signals: frozenset[Signal], rows: list[int], shape: Sequence[int]
    ) -> Hashable | None:
        """What decides the FLOPs of reading a layer's attention, where it gets rows of that shape.

        None where it is also how many positions are text.
        """
        if Signal.TEXT_ATTENTION in signals:
            return None
        batch = len(self.call.layouts)
        return "attention", site, signals, batch, len(rows), tuple(shape), self.call.drafts

    def forget_attention(self) -> None:
        """Drop what was kept for a stage that has run."""
        self.over_columns.clear()

    # ---- what a stage is shown -------------------------------------------------------------------

    def signals(self, offer: Offer, hidden: Tensor, stream: Stream) -> dict[Signal, Any]:
        """The declared observations of the offered tokens, but for those that the caller gives."""
        row, ready = offer.row, self.setup.ready
        here = ready.reads.signals_at(offer.stage.site)
        columns = sent(offer.live.columns, hidden.device)
        signals: dict[Signal, Any] = {}
        for signal, values in self.over_columns.items():
            # a probe's own key is no visual token's column, and falls out here
            value = values[row]
            for axis in signal.row.token_axes:
                value = value.index_select(axis, columns)
            signals[signal] = value
        for signal, blocks in ready.blocks.items():
            if signal in here:
                encoder_rows = self.call.rows[row]
                observed = self.observed.of(signal, blocks, encoder_rows, offer.live.ordinal)
                signals[signal] = observed
        # drafts lie at the end; they are alive and not visual, but no text of the prompt
        prompt = offer.live.text[: len(offer.live.text) - self.call.drafts]
        view = RowsView(self, offer, hidden, stream, prompt.nonzero()[:, 0])
        for signal, reader in FROM_ROWS.items():
            if signal in here:
                signals[signal] = reader(view)
        return signals

    def tokens(self, offer: Offer, features: Tensor, signals: dict[Signal, Any]) -> VisualTokens:
        """What the method is shown, with what the caller gave.

        All of it are copies, so that what a method changes in place reaches neither the engine nor
        another method.
        """
        call, row, site = self.call, offer.row, offer.stage.site
        reads, views = self.setup.ready.reads, dict(signals)
        if call.caller_signals:
            for signal, value in call.caller_signals[row].items():
                # a caller of a bare decoder may give what no stage of it could read
                if signal in reads.signals and reads.covers(signal, site):
                    views[signal] = copied(value)
        return VisualTokens(
            features=features.clone(),
            layout=copied(call.layouts[row]),
            index=offer.live.ordinal.clone(),
            site=site,
            question=call.questions[row],
            seed=call.seeds[row],
            memo=self.memos[row],
            signals=views,
            # TILES names a kind of model and has no value, so that it is never missing
            absent=reads.signals - frozenset(views) - {Signal.TILES},
        )


def begin_reading(setup: Setup, call: Call, memos: Sequence[dict[str, Any]] = ()) -> Reading:
    """Take what was read in the vision encoder, and charge what reading took.

    `memos` are the samples' own where stages have run already.
    """
    memos = memos or [{} for _ in call.layouts]
    if setup.observer is None:
        return Reading(setup, call, Observed(), memos)
    keys, fresh = setup.observer.keys, setup.observer.read()
    if not keys:  # none of the batch's stages is shown anything of the encoder
        return Reading(setup, call, Observed(), memos)
    # nothing is fresh where images were encoded before: then their encodings bring it along
    observed = required(fresh if fresh is not None else call.observed, keys, setup.ready.name)
    seconds, flops = observed.cost(keys)
    setup.trace.charge(seconds, flops)
    # what was read before this call took none of its time
    setup.trace.seconds["observe"] += seconds if fresh is not None else 0.0
    return Reading(setup, call, observed, memos)


def reading_work(ready: Ready, site: Site) -> Hashable | None:
    """What decides the FLOPs of picking a stage's signals out of what was read before: nothing but
    the stage, for nothing is multiplied.

    None where a CLIP reads texts for it.
    """
    return None if Signal.CLIP_TEXT in ready.reads.signals_at(site) else ("picking", site)


@contextmanager
def _without_drafts(cache: Any, drafts: int) -> Iterator[None]:
    """The cache as the prompt alone left it.

    What a probe sees does not depend on the guesses behind the prompt.
    """
    if not drafts:
        yield
        return
    # layers behind the site have not run yet and hold nothing
    layers = [layer for layer in cache.layers if layer.keys is not None]
    whole = [(layer.keys, layer.values) for layer in layers]
    for layer in layers:
        layer.keys = layer.keys[:, :, :-drafts]
        layer.values = layer.values[:, :, :-drafts]
    try:
        yield
    finally:
        for layer, (keys, values) in zip(layers, whole, strict=True):
            layer.keys, layer.values = keys, values


def copied(value: Any) -> Any:
    """A copy that shares no tensor with `value`: a tensor, a layout, or a tuple of such."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, tuple):
        return tuple(copied(entry) for entry in value)
    if isinstance(value, Layout):
        # tiles are frozen and may be shared; only tensors can be changed in place
        twin = copy(value)
        for name, part in vars(value).items():
            if isinstance(part, Tensor):
                setattr(twin, name, part.clone())
        return twin
    return value
