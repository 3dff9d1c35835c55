"""Prefill: one batch on its way through the decoder, with the stages that thin it out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from prunebench.budget import Stage
from prunebench.contract import NOTHING
from prunebench.course import Course
from prunebench.engine.ask import Question, ask, replanned
from prunebench.engine.attention import Heads, watch
from prunebench.engine.cache import bytes_of, length_of
from prunebench.engine.call import Call
from prunebench.engine.checks import check_bias, check_call, planned, settled
from prunebench.engine.compaction import compact
from prunebench.engine.frame import Frame, Kwargs
from prunebench.engine.kept_logits import map_logits
from prunebench.engine.masks import NOTHING_EXTRA, Extra, Sight, masks_by_kind, sees_specially
from prunebench.engine.pairs import Pairs
from prunebench.engine.positions import Positions, gather, given_ids
from prunebench.engine.reading import begin_reading, reading_work
from prunebench.engine.setup import Setup
from prunebench.engine.stream import EngineError, LiveTokens, Stream, sent
from prunebench.engine.thinning import Thinning
from prunebench.engine.trace import SampleTrace
from prunebench.engine.views import Offer, RowsView
from prunebench.engine.window import check_window
from prunebench.signals import BEFORE, BEHIND, PROBE, Signal
from prunebench.sites import INPUT, Site, llm
from prunebench.tokens import Keep, Layout


class Prefill:
    """The state of one batch from the decoder's entry to its end."""

    def __init__(self, setup: Setup, call: Call, embeds: Tensor, mask: Any) -> None:
        check_call(setup, call, embeds)
        batch, width = embeds.shape[:2]
        self.setup = setup
        self.call = call
        self.whole = call.stream or Stream.of_prompt(batch, width, mask)
        """The prompt as it came."""
        self.now = self.whole
        """What is alive of it where the batch is."""
        self.places: dict[int, tuple[Stream, LiveTokens]] = {}
        """Where a sample's visual tokens were in a stream, by row."""
        self.live = [self.whole] * setup.depth
        """What is alive in every layer, and in its part of the cache."""
        self.frames: list[Frame | None] = [None] * setup.depth
        """What each layer is given in place of the whole sequence's arguments.

        None where these still fit.
        """
        self.entry: Frame | None = None
        """The same for the first layer, known before it runs."""
        # batches are padded on the left: one column holds every sample's last prompt position
        self.pinned: list[bool] = call.visual[:, width - call.drafts - 1].tolist()
        """Whose prompt ends in its image.

        An answer starts from the prompt's last position, which therefore survives.
        """
        plans = {available: self._stages(available) for available in map(len, call.layouts)}
        self.samples = []
        for row, layout in enumerate(call.layouts):
            self.samples.append(self._sample(row, layout, plans[len(layout)]))
        """The trace's records."""
        self.sites = sites_of(self.samples)
        """The seams at which any sample has a stage, in order."""
        setup.trace.reset(self.samples)
        setup.finite.forget()
        record = setup.trace.positions
        self.positions = Positions(call, any(self.pinned), record)
        # behind trace.reset: reading charges this trace for what the method did in the encoder
        self.early = setup.tower.read(call) if setup.tower is not None else ()
        """What stages inside the vision encoder left, a sample each."""
        self.reading = begin_reading(setup, call, [early.memo for early in self.early])
        self.drops = any(self._may_drop(sample) for sample in self.samples)
        """Whether any stage may drop anything."""
        self.pairs = Pairs(setup)
        self.carriers: Sequence[Tensor] | None = None
        """Whose position ids the rows of `now` have in the stream before, None for their own."""
        groups = None if call.together is None else tuple(call.together)
        self.sights: dict[str, Sight] = {}
        for kind, window in setup.windows.items():
            self.sights[kind] = Sight(window, groups if kind in setup.mutual else None)
        """What the queries of each kind of layer see."""
        if self.drops:
            check_window(setup, self.whole.width, bool(setup.mutual and groups))

    def _stages(self, available: int) -> tuple[Stage, ...]:
        """The stages of samples with so many visual tokens."""
        setup = self.setup
        return planned(setup.ready, setup.budget, setup.plan, available, setup.depth)

    def _sample(self, row: int, layout: Layout, stages: tuple[Stage, ...]) -> SampleTrace:
        """The record of one sample, with its stages."""
        available = len(layout)
        text = len(self.whole.source[row]) - available - self.call.drafts
        return SampleTrace(layout, available, text, stages)

    def _may_drop(self, sample: SampleTrace) -> bool:
        """Whether any stage of a sample may drop a token."""
        if self.setup.ready.pruner.dynamic or self.setup.replans:
            # how few such a method keeps is not known before it is asked
            return bool(sample.stages)
        return any(stage.keep < sample.available for stage in sample.stages)

    # ---- the decoder's entry ---------------------------------------------------------------------

    def at_input(self, embeds: Tensor, kwargs: Kwargs) -> Kwargs:
        """The decoder's arguments behind the stage at its input; unchanged where there is none."""
        hidden, positions = self._without_early(embeds), self.positions
        ids = given_ids(kwargs, self.whole.width, embeds.device)
        if INPUT in self.sites:
            closes = self.setup.compacts_at(INPUT)
            narrow = positions.narrowed(ids, self.whole, self.now, closes)
            hidden = self._apply(INPUT, hidden, narrow)
        stream = self.now
        # identity is enough: where nothing is dropped, the next stream shares the tuple of sources
        untouched = stream.source is self.whole.source
        if not untouched:
            index = self.whole.columns(stream, embeds.device, self.carriers)
            # stages inside the encoder are thinned here, too, as at the input
            ids = positions.thinned(ids, index, stream, self.setup.compacts_at(INPUT))
            positions.input_end = positions.end_of(ids, stream)
        self.pairs.read(stream, ids)
        # the decoder's own 2-D mask has no room for a bias, nor for what a layer sees of a prompt
        # with gaps, so the layers are given theirs
        if stream.weighed or sees_specially(stream, self.sights):
            self.entry = self._masked(stream, hidden)
        self._go_on_from(0, stream)
        if untouched:
            return kwargs if hidden is embeds else {**kwargs, "inputs_embeds": hidden}
        # explicit on purpose: without a mask, gaps in position_ids read as packed sequences
        mask = stream.valid(embeds.device).long()
        return {**kwargs, "inputs_embeds": hidden, "position_ids": ids, "attention_mask": mask}

    def _without_early(self, embeds: Tensor) -> Tensor:
        """The rows [B, n, D] that the stages inside the vision encoder left, and note of these.

        Every placeholder of the prompt has a row, also of what the encoder no longer had; those
        rows are dropped here. A pinned token stays, whatever a stage left.
        """
        thinning = Thinning(self.whole)
        for row, early in enumerate(self.early):
            live = self._live(row)
            # each site starts from the whole prompt again: what is kept only shrinks, so the last
            # site has the last word in `thinning`
            for site, ordinals in sorted(early.kept.items()):
                alive = torch.isin(live.ordinal, ordinals)
                if self.pinned[row]:
                    alive[-1] = True
                index = alive.nonzero()[:, 0]
                thinning.leave(row, live, index)
                self.samples[row].kept[site] = live.ordinal[index]
        self.now = thinning.stream()
        return thinning.rows(embeds, self.now)

    def note_positions(self, ids: Tensor | None) -> None:
        """The decoder's rotary module was given these position ids, those of its first layer."""
        self.positions.note(ids, self.live[0])

    # ---- layers ----------------------------------------------------------------------------------

    def at_layer(self, number: int, hidden: Tensor, kwargs: Kwargs) -> tuple[Tensor, Kwargs]:
        """What layer `number` is given in place of what the decoder's loop hands it."""
        frame = self.frames[number - 1] if number else self.entry
        stream = self.live[number]
        if frame is not None and stream is not self.now:
            # nothing but the bias of keys, which may be another in every layer, differs
            frame = replace(frame, masks=self._masked(stream, hidden).masks)
        self.now = stream
        # a frame is handed on from layer to layer; a stage here replaces it below
        self.frames[number] = frame
        if frame is not None:
            kwargs = frame.fitted(kwargs, self.setup.kinds[number])
        if number and llm(number) in self.sites:
            hidden, kwargs = self._at_site(llm(number), hidden, kwargs)
        # behind the layer's own stage: what it attends over is the stream that is left there
        if llm(number + 1) in self.sites:
            self._look_before(llm(number + 1), hidden)
        return hidden, kwargs

    def _look_before(self, site: Site, hidden: Tensor) -> None:
        """Read what enters the layer before a site, and let its attention be read, where the method
        reads that.
        """
        signals = self.setup.ready.reads.signals_at(site)
        rows, stream = self._choosing_at(site), self.now
        if rows and Signal.EARLIER_FEATURES in signals:
            self.reading.read_entering(rows, stream, hidden)
        if not rows or not signals & BEFORE:
            return

        def read(heads: Heads) -> None:
            self.reading.read_before(site, rows, stream, heads)

        watch(self.setup.attention(site.layer - 1), read)

    def _at_site(self, site: Site, hidden: Tensor, kwargs: Kwargs) -> tuple[Tensor, Kwargs]:
        """Run the stage before a layer: what enters that layer, and the layer's arguments."""
        entered = self.now
        self._look_around(site, hidden, kwargs)
        rows = self._apply(site, hidden, self._ids_at(site))
        stream = self.now
        # also where this stage drops nothing: what an earlier one dropped may still be in caches
        first = self._compacted_from(site)
        if first is not None:
            compact(self.live, range(first, site.layer), stream, kwargs.get("past_key_values"))
        if stream is entered:
            return rows, kwargs
        frame = self._frame(site, entered, rows, kwargs)
        self.frames[site.layer] = frame
        self._go_on_from(site.layer, stream)
        return rows, frame.fitted(kwargs, self.setup.kinds[site.layer])

    def _go_on_from(self, layer: int, stream: Stream) -> None:
        """From that layer on a stream is alive, with the bias that it has so many layers on."""
        for number in range(layer, self.setup.depth):
            self.live[number] = stream
            # itself, and so shared, where the bias is the same from there on
            stream = stream.later(1)

    def _ids_at(self, site: Site) -> Tensor:
        """[.., B or 1, n] the position ids with which a layer is entered, before its stage."""
        frame = self.frames[site.layer]
        return self.positions.ids if frame is None or frame.ids is None else frame.ids

    def _look_around(self, site: Site, hidden: Tensor, kwargs: Kwargs) -> None:
        """Read what a probe or the layer behind the site tells, where the method reads that."""
        signals, rows = self.setup.ready.reads.signals_at(site), self._choosing_at(site)
        if not rows:
            return
        if signals & PROBE:
            # the probe stands behind the prompt as this layer counts it, closed up or not
            end = self.positions.end_of(self._ids_at(site), self.now)
            # of the layers before the site, and again of the one whose attention is read
            streams = [*self.live[: site.layer], self.live[site.layer - 1]]
            self.reading.read_probe(site, rows, streams, end, hidden, kwargs)
        if signals & BEHIND:
            self.reading.read_behind(site, rows, self.now, hidden, kwargs)

    def _frame(self, site: Site, entered: Stream, hidden: Tensor, kwargs: Kwargs) -> Frame:
        """The arguments of the layers behind a site that was entered with that stream.

        `hidden` [B, n, D] are the rows that were left.
        """
        stream, frame, positions = self.now, self.frames[site.layer], self.positions
        ids = self._ids_at(site)
        # a bias alone is new: the positions of the stream before still fit
        if stream.source is entered.source:
            self.pairs.read(stream, ids)
            masked = self._masked(stream, hidden)
            return masked if frame is None else replace(frame, masks=masked.masks)
        index = entered.columns(stream, hidden.device, self.carriers)
        compact = self.setup.compacts_at(site)
        positions.moved = positions.moved or compact
        ids = positions.thinned(ids, index, stream, compact)
        self.pairs.read(stream, ids)
        masked = self._masked(stream, hidden)
        # at_layer has fitted kwargs to the stream that entered, whose columns `index` counts
        own = kwargs.get("position_ids")
        return replace(
            masked,
            ids=ids,
            shift=positions.shift(ids, stream),
            tables=self.setup.tables(hidden, ids),
            own=None if own is None else gather(own, index),
        )

    def _masked(self, stream: Stream, hidden: Tensor) -> Frame:
        """What the layers need to be told of padding, bias and sight, for all rows of a stream."""
        extra = Extra(self.pairs.scores) if stream.pairs else NOTHING_EXTRA
        masks = masks_by_kind(stream, self.sights, self.setup.kernel, hidden, extra)
        return Frame(masks, stream.valid(hidden.device) if stream.padded else None)

    def _compacted_from(self, site: Site) -> int | None:
        """The first layer from whose cache the dropped go, too; one cache has one answer."""
        answers = {stage.compacted_from for _, stage in self._stages_at(site)}
        if len(answers) > 1:
            name = type(self.setup.ready.pruner).__name__
            raise EngineError(f"{name} compacts at {site} for some samples of the batch only")
        return answers.pop()

    # ---- stages ----------------------------------------------------------------------------------

    def _stages_at(self, site: Site) -> list[tuple[int, Stage]]:
        """The samples that have a stage at a site, and these stages."""
        stages = []
        for row, sample in enumerate(self.samples):
            stages += [(row, stage) for stage in sample.stages if stage.site == site]
        return stages

    def _live(self, row: int) -> LiveTokens:
        """Where a sample's visual tokens are now; a stage asks several times."""
        stream, live = self.places.get(row, (None, None))
        if live is None or stream is not self.now:
            live = self.now.visual(row, self.call.visual[row])
            self.places[row] = self.now, live
        return live

    def _choosing_at(self, site: Site) -> list[int]:
        """The samples for which the method has something to choose at a site."""
        rows = []
        for row, stage in self._stages_at(site):
            if self._offer(row, stage, self._live(row)).has_choice:
                rows.append(row)
        return rows

    def _apply(self, site: Site, hidden: Tensor, ids: Tensor) -> Tensor:
        """Run the method on every sample with a stage at `site`; the rows [B, n, D] that go on.

        `ids` [.., B or 1, S] are the position ids of the rows `hidden` [B, S, D] that entered.
        """
        thinning = Thinning(self.now)
        for row, stage in self._stages_at(site):
            live = self._live(row)
            offer = self._offer(row, stage, live)
            view = RowsView(self.call, offer, hidden, self.now, ids)
            keep = self._choose(view) if offer.has_choice else NOTHING
            kept = thinning.keep(row, live, keep, self.pinned[row])
            self.samples[row].kept[site] = kept
        self.reading.forget_layers()
        if thinning.biases or thinning.pairs:
            check_bias(self.setup, site)
        # only now: until all samples have answered, columns are those of the stream that entered
        self.now = thinning.stream()
        self.carriers = thinning.ids_from(self.now)
        return thinning.rows(hidden, self.now)

    def _offer(self, row: int, stage: Stage, live: LiveTokens) -> Offer:
        """What the method may choose from: all visual tokens but a pinned one, which counts."""
        if not self.pinned[row]:
            return Offer(row, stage, live)
        return Offer(row, replace(stage, keep=max(0, stage.keep - 1)), live.without_last())

    def _choose(self, view: RowsView) -> Keep:
        """The survivors among the offered tokens, ascending.

        Only the signals and the method are charged to it, and whatever it is shown is a copy.
        """
        offer, hidden = view.offer, view.hidden
        setup, row, device = self.setup, offer.row, hidden.device
        work = reading_work(setup.ready, offer.stage.site)
        with setup.trace.selecting(device, [row], work):
            signals = self.reading.signals(view)
        features = hidden[row, sent(offer.live.columns, device)]
        tokens = self.reading.tokens(offer, features, signals)
        question = Question(row, offer.stage, tokens, features, offer.live.ordinal)
        if setup.replans:
            offer = self._offer(row, self._replanned(question), self._live(row))
            question = replace(question, stage=offer.stage)
        if not offer.has_choice:
            return NOTHING
        return ask(setup.ready, question, setup.trace, setup.finite)

    def _replanned(self, question: Question) -> Stage:
        """The stage of a question as the method wants it now that it sees the tokens, and note of
        what it wants of those behind.
        """
        sample, setup, site = self.samples[question.row], self.setup, question.stage.site
        past = [stage for stage in sample.stages if stage.site < site]
        course = Course(
            setup.budget,
            sample.available,
            setup.depth,
            tuple(replace(stage, keep=len(sample.kept[stage.site])) for stage in past),
            sample.stages[len(past) :],
        )
        ahead = replanned(setup.ready, question, course, setup.trace)
        sample.stages = (*past, *ahead)
        return ahead[0]

    # ---- the end ---------------------------------------------------------------------------------

    def finish(self, cache: Any) -> None:
        """Check what the decoder left behind, and note it.

        Raises EngineError where text, caches or counts are not as planned.
        """
        for sample in self.samples:
            sample.entering = sample.counts(self.setup.depth)
        lengths = [length_of(part) for part in cache.layers]
        settled(self.setup.ready.pruner, self.samples, self.call, self.live, lengths)
        if self.call.kept_logits is not None:
            map_logits(self.call.kept_logits, self.live[-1])
        # bytes are the prompt's: drafts are an answer's tokens
        prompts = [stream.without(self.call.drafts) for stream in self.live]
        padded = [stream.width for stream in prompts]
        lives = []
        for row in range(len(self.samples)):
            lives.append([len(stream.source[row]) for stream in prompts])
        *live_bytes, padded_bytes = bytes_of(cache, [*lives, padded])
        for sample, own_bytes in zip(self.samples, live_bytes, strict=True):
            sample.kv_bytes, sample.kv_bytes_padded = own_bytes, padded_bytes


def sites_of(samples: Sequence[SampleTrace]) -> list[Site]:
    """The seams at which any of the samples has a stage, in order."""
    sites: set[Site] = set()
    for sample in samples:
        sites.update(stage.site for stage in sample.stages)
    return sorted(sites)
