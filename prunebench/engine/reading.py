"""Reading: what a pruner is shown of one batch, and where each signal of the decoder comes from."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor

from prunebench.engine.attention import Heads, dry_run, unrotated, unwatch
from prunebench.engine.behind import CachedPrompt, aside
from prunebench.engine.beside import seen_by
from prunebench.engine.cache import checked
from prunebench.engine.call import Call
from prunebench.engine.clip import load_clip
from prunebench.engine.encoder import Observed, required
from prunebench.engine.frame import Kwargs
from prunebench.engine.hooks import Run, around
from prunebench.engine.ready import Ready
from prunebench.engine.setup import Setup
from prunebench.engine.stream import EngineError, Stream, sent
from prunebench.engine.transitions import Transitions
from prunebench.engine.views import (
    BY_COUNT,
    FROM_HEADS,
    FROM_ROWS,
    OF_ALL_QUERIES,
    UNROTATED,
    Columns,
    HeadsView,
    Offer,
    RowsView,
)
from prunebench.pruner import contained
from prunebench.signals import BEFORE, BEHIND, CLIP, CLIP_CROPS, CLIP_TEXTS, PROBE, Signal
from prunebench.sites import Site
from prunebench.tokens import Layout, VisualTokens


def clip_texts(
    ready: Ready, site: Site, question: str | None, like: Tensor, notes: list[str]
) -> dict[Signal, Tensor]:
    """What a stage at a site is shown of what CLIP makes of a method's texts on a question.

    `like` gives device and dtype; a note says so where CLIP could not read them all.
    """
    here = ready.reads.signals_at(site) & CLIP_TEXTS
    # without a CLIP they come from whoever works with a bare decoder
    if not here or ready.clip is None:
        return {}
    clip = load_clip(ready.clip, like.device, like.dtype)
    with contained(ready.name, "reads.texts"):
        texts = ready.reads.texts(question or "")
    # once for both: its tokens are what CLIP makes a text's embedding of
    whole = Signal.CLIP_TEXT_TOKENS in here
    embeddings = clip.texts(texts, whole)
    if embeddings.cut:
        notes.append(f"{embeddings.cut} texts were longer than CLIP reads and were cut off")
    values = {Signal.CLIP_TEXT: embeddings.pooled}
    if embeddings.tokens is not None:
        values[Signal.CLIP_TEXT_TOKENS] = embeddings.tokens
    return {signal: values[signal] for signal in here}


@dataclass(frozen=True)
class Reading:
    """What may be shown of one batch.

    `observed` is what was read in the vision encoder. `memos` are a dict a sample, which its stages
    share; `of_layers` holds, until the stage, what was read of the layers around it: by signal and
    sample a tensor whose axes over tokens are those of all visual tokens alive.
    """

    setup: Setup
    call: Call
    observed: Observed
    memos: Sequence[dict[str, Any]]
    of_layers: dict[Signal, dict[int, Tensor]] = field(default_factory=dict)
    of_pictures: dict[int, dict[Signal, Tensor]] = field(default_factory=dict)
    """By sample, what a CLIP beside the model made of its pictures, of all tokens and tiles."""
    transitions: Transitions = field(default_factory=Transitions)

    # ---- layers ----------------------------------------------------------------------------------

    def read_entering(self, rows: list[int], stream: Stream, hidden: Tensor) -> None:
        """Keep what enters the layer before a site of the tokens of the samples `rows`."""
        with self.setup.trace.selecting(hidden.device, rows, "entering"):
            values = {}
            for row in rows:
                columns = sent(self._columns(row, stream).visual, hidden.device)
                values[row] = hidden[row].index_select(0, columns)
            self.of_layers[Signal.EARLIER_FEATURES] = values

    def watch_parts(
        self, undo: ExitStack, sites: Sequence[Site], now: Callable[[], Stream]
    ) -> None:
        """Let it be seen what the parts of layers change, where a stage at one of the sites reads
        that, until `undo` closes.

        `now` gives the stream that is in the layer at work.
        """
        reads, rows = self.setup.ready.reads, list(range(len(self.call.layouts)))

        def compare(layer: int, part: int, run: Run) -> None:
            with self.setup.trace.selecting(run.leaving.device, rows, "comparing"):
                self.transitions.note(layer, part, now(), run)

        layers: set[int] = set()
        for site in sites:
            if Signal.TRANSITIONS in reads.signals_at(site):
                layers.update(reads.layers_at(Signal.TRANSITIONS, site))
        for layer in sorted(layers):
            for part, module in enumerate(self.setup.parts_of(layer)):
                around(undo, module, partial(compare, layer, part))

    def read_before(self, site: Site, rows: list[int], stream: Stream, heads: Heads) -> None:
        """Keep of a layer's attention what the site behind it reads, for the samples `rows`."""
        # once is enough: the same layer attends again at every step of the answer
        unwatch(self.setup.attention(site.layer - 1))
        signals = self.setup.ready.reads.signals_at(site) & BEFORE
        work = self._work(site, signals, rows, stream, heads.key.shape)
        with self.setup.trace.selecting(heads.key.device, rows, work):
            self._keep(signals, rows, stream, heads.without(self.call.drafts))

    def read_behind(
        self, site: Site, rows: list[int], stream: Stream, hidden: Tensor, kwargs: Kwargs
    ) -> None:
        """Run the norm and projections of the layer behind the site; keep what is read there."""
        setup, drafts = self.setup, self.call.drafts
        signals = setup.ready.reads.signals_at(site) & BEHIND
        work = self._work(site, signals, rows, stream, hidden.shape)
        layer, attention = setup.layers[site.layer], setup.attention(site.layer)
        with setup.trace.selecting(hidden.device, rows, work):
            for part in (signals - UNROTATED, signals & UNROTATED):
                if not part:
                    continue
                # one query is enough, unless more are looked at
                place = None if part & OF_ALL_QUERIES else stream.without(drafts).width - 1
                turned = kwargs if part.isdisjoint(UNROTATED) else unrotated(kwargs)
                heads = dry_run(layer, attention, hidden, turned, place)
                self._keep(part, rows, stream, heads.without(drafts))

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
        widths = tuple(stream.width for stream in streams)
        work = self._work(site, signals, rows, streams[-1], widths)
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
        views = {row: HeadsView(heads, self._columns(row, stream)) for row in rows}
        for signal in signals:
            reader = FROM_HEADS[signal]
            self.of_layers[signal] = {row: reader(view) for row, view in views.items()}

    def _columns(self, row: int, stream: Stream) -> Columns:
        """Where a sample's prompt is in a stream; drafts are none of it."""
        return Columns(row, stream.without(self.call.drafts), self.call.visual[row])

    def _work(
        self,
        site: Site,
        signals: frozenset[Signal],
        rows: list[int],
        stream: Stream,
        shape: Sequence[int],
    ) -> Hashable:
        """What decides the FLOPs of reading a layer's attention, which gets rows of that shape."""
        counts = []
        for row in rows if signals & BY_COUNT else ():
            columns = self._columns(row, stream)
            counts.append((len(columns.visual), len(columns.text_behind)))
        batch = len(self.call.layouts)
        shapes = tuple(shape), tuple(counts)
        return "attention", site, signals, batch, len(rows), shapes, self.call.drafts

    def forget_layers(self) -> None:
        """Drop what was kept for a stage that has run."""
        self.of_layers.clear()

    # ---- what a stage is shown -------------------------------------------------------------------

    def signals(self, view: RowsView) -> dict[Signal, Any]:
        """The declared observations of the offered tokens, but for those that the caller gives."""
        offer, row, ready = view.offer, view.offer.row, self.setup.ready
        site, reads = offer.stage.site, ready.reads
        here = reads.signals_at(site)
        signals: dict[Signal, Any] = {}
        for signal, values in self.of_layers.items():
            # a token that is not offered is the last of those alive
            value = values[row]
            for axis in signal.row.token_axes:
                value = value.narrow(axis, 0, len(offer.live))
            signals[signal] = value
        if Signal.TRANSITIONS in here:
            layers = reads.layers_at(Signal.TRANSITIONS, site)
            alive = view.stream.without(self.call.drafts).source[row]
            signals[Signal.TRANSITIONS] = self.transitions.of(layers, row, alive)
        for signal, blocks in ready.blocks.items():
            if signal in here:
                tokens = self.call.rows[row], offer.live.ordinal
                signals[signal] = self.observed.of(signal, blocks, *tokens, ready.queries)
        for signal, reader in FROM_ROWS.items():
            if signal in here:
                signals[signal] = reader(view)
        signals |= self.by_clip(row, site, offer.live.ordinal, view.hidden)
        notes = self.setup.trace.samples[row].notes
        return signals | clip_texts(ready, site, self.call.questions[row], view.hidden, notes)

    def by_clip(self, row: int, site: Site, index: Tensor, like: Tensor) -> dict[Signal, Tensor]:
        """What a stage at a site is shown of what a CLIP beside the model makes of a sample's
        pictures; `like` gives device and dtype.
        """
        ready = self.setup.ready
        here = ready.reads.signals_at(site) & CLIP_CROPS if ready.beside else frozenset()
        values = self.of_pictures.setdefault(row, {})
        if here - values.keys():
            pictures = self.call.caller_signals[row][Signal.PICTURES]
            clip = load_clip(str(ready.clip), like.device, like.dtype)
            layout, regions = self.call.layouts[row], ready.reads.regions
            values |= seen_by(clip, here, pictures, layout, regions)
        signals = {}
        for signal in here:
            value = values[signal]
            signals[signal] = value[sent(index, value.device)] if signal.row.token_axes else value
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

    None where a CLIP reads texts or sees pictures for it.
    """
    by_clip = CLIP if ready.beside else CLIP_TEXTS
    return None if by_clip & ready.reads.signals_at(site) else ("picking", site)


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
