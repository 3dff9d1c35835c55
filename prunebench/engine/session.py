"""Session: one pruner at work in one stock transformers model, through hooks that leave no trace."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from threading import Lock
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from prunebench.budget import Budget, Stage
from prunebench.engine.attention import (
    Heads,
    check_kernel,
    dry_run,
    implementation,
    probed,
    unwatch,
    watch,
)
from prunebench.engine.behind import aside
from prunebench.engine.cache import checked, live_bytes, pick
from prunebench.engine.call import Call, CallerGives, Reader
from prunebench.engine.checks import ATTENTION, BEFORE, answered, planned, settled
from prunebench.engine.clip import load_clip
from prunebench.engine.encoder import Observer, required
from prunebench.engine.finite import Finite
from prunebench.engine.hooks import Hook, after, before
from prunebench.engine.lora import tuned
from prunebench.engine.ready import Ready, make_ready
from prunebench.engine.stream import EngineError, Stream, attention_mask, closed_up, gather
from prunebench.engine.trace import SampleTrace, Trace
from prunebench.engine.window import check_window, window_of
from prunebench.engine.wrappers import chain_of
from prunebench.models import family_of
from prunebench.models.bare import BareDecoder
from prunebench.models.base import EncoderRows, Family, Unsupported
from prunebench.pruner import Positions, Pruner, contained
from prunebench.registry import name_of
from prunebench.sites import INPUT, Part, Site, llm
from prunebench.tokens import PROBE, TOKEN_AXIS, Layout, Signal, VisualTokens

Kwargs = dict[str, Any]

_ACTIVE: WeakSet[nn.Module] = WeakSet()
"""Decoders inside a block; whatever wraps them, hooks go there."""
_LOCK = Lock()


@contextmanager
def prune(
    model: nn.Module,
    pruner: Pruner | Ready | str,
    budget: Budget | int | float | str | None = None,
    *,
    positions: Positions | None = None,
    layouts: Sequence[Layout] | None = None,
    rows: Sequence[EncoderRows] | None = None,
    seeds: Sequence[int] | None = None,
    questions: Sequence[str] | None = None,
    pictures: Sequence[Sequence[Tensor]] | None = None,
    masks: Sequence[Sequence[Tensor]] | None = None,
    processor: Any = None,
    plan: tuple[Stage, ...] | None = None,
    timed: bool = False,
    count_flops: bool = False,
) -> Iterator[Trace]:
    """Prune visual tokens in every `model.generate(...)` or `model(...)` inside the block.

    `budget` None means the method's own. `positions` overrides what the method's paper does with
    position ids; `plan` sets the stages and leaves the budget aside. What some methods read and
    only the caller has, one a sample: `seeds`, `questions`, `pictures` (images and videos, [F, H,
    W, 3] uint8 each), `masks` ([Q, H, W] bool an image); and the `processor`. `layouts`, one a
    sample, say where its tokens lie and `rows` where they come from in the vision encoder, for a
    caller who knows; else they are read off the inputs at every prefill. A method that is used
    often is bound to the model once, by `make_ready`.

    The last position of a prompt always survives, for the answer starts from it: where it is
    visual, because the prompt ends with its image, it counts among the tokens that a stage keeps,
    and the method chooses the others and is not shown it. A block serves one model and one call at
    a time. A cache that leaves the block behind a method whose positions are compact goes on right
    only inside it: outside, a model counts positions as if nothing had been closed up. A copy of
    the model that is made inside the block is not pruned.

    The trace is that of the latest prefill. Raises EngineError, NotFinite, MethodError,
    BudgetError, Unsupported, LoadError or RegistryError, never alters results quietly.
    """
    chain = chain_of(model)
    whole = chain[-1]
    family = family_of(whole)
    ready = pruner if isinstance(pruner, Ready) else make_ready(family, whole, pruner)
    session = Session(family, whole, ready, budget, positions, plan, Trace(timed, count_flops))
    told, needs = (
        CallerGives(seeds, questions, pictures, masks, processor, layouts, rows),
        ready.needs,
    )
    missing = told.missing(needs)
    if missing is not None:
        raise Unsupported(
            f"{ready.name} needs the {missing} of the samples: prune(..., {missing}=...)"
        )
    reader = Reader(
        family,
        whole,
        told,
        needs,
        expect=session.expect,
        answered=session.look_at_logits,
        resumed=session.check_resumed,
        ended=session.finite.settle,
        observer=session.observer,
    )
    with session.attached() as trace, reader.attached(chain):
        yield trace
    session.finite.settle()


@contextmanager
def prune_embeds(
    decoder: nn.Module,
    pruner: Pruner,
    *,
    visual: Tensor,
    layouts: Sequence[Layout],
    budget: Budget | int | float | str | None = None,
    positions: Positions | None = None,
    plan: tuple[Stage, ...] | None = None,
    signals: Sequence[Mapping[Signal, Any]] = (),
) -> Iterator[Trace]:
    """The same for a bare decoder called with `inputs_embeds`; `visual` [B, S] bool marks its
    visual positions.

    `signals`, a mapping a row, stand for those that a bare decoder cannot give; they are shown as
    they are.
    """
    known = frozenset(signal for row in signals for signal in row)
    parts = BareDecoder()
    session = Session(
        parts, decoder, make_ready(parts, decoder, pruner, known), budget, positions, plan, Trace()
    )
    with session.attached() as trace:
        nobody = [None] * len(layouts)
        session.expect(Call(visual.cpu(), layouts, [0] * len(layouts), nobody, given=signals))
        yield trace
    session.finite.settle()


class Session:
    """Hooks for one model and one pruner; the state is that of the batch in flight."""

    def __init__(
        self,
        parts: Family,
        model: nn.Module,
        ready: Ready,
        budget: Budget | int | float | str | None,
        positions: Positions | None,
        plan: tuple[Stage, ...] | None,
        trace: Trace,
    ) -> None:
        pruner = ready.pruner
        if positions not in (None, "original", "compact"):
            raise EngineError(f"positions is {positions!r}; it is 'original' or 'compact'")
        self.parts, self.model, self.pruner, self.plan, self.trace = (
            parts,
            model,
            pruner,
            plan,
            trace,
        )
        self.ready, self.needs = ready, ready.needs
        self.budget = None if budget is None else Budget.parse(budget)
        self.compact_ids = (positions or pruner.default_positions) == "compact"
        self.decoder, self.layers = parts.decoder(model), parts.layers(model)
        self.rotary = parts.rotary(model)
        config: Any = self.decoder.config
        self.kernel = implementation(config)
        if self.kernel not in ("sdpa", "eager") and "flash" not in self.kernel:
            raise Unsupported(
                f"attention {self.kernel!r} is not supported; use sdpa, eager or flash attention"
            )
        self.config, self.window = config, window_of(config)
        self.reads, self.clip = ready.reads, ready.clip
        self.observer: Observer | None = None
        if self.reads:
            self.observer = Observer(parts, model, self.reads, count=trace.count_flops)
        self.finite = Finite()
        self.prompt: Call | None = None
        self.cache: Any = None
        self.waiting = self.prefilling = self.layers_hooked = False
        self.step = 0
        self.inside = ExitStack()
        """Hooks inside the decoder, for as long as the batch in flight needs them: hooked layers
        cost time at every step.
        """

    @contextmanager
    def attached(self) -> Iterator[Trace]:
        """Install the hooks; on leaving, the model is as it was."""
        with ExitStack() as undo:
            with _LOCK:
                if self.decoder in _ACTIVE:
                    raise EngineError(
                        "this model is inside another prune(...) block; leave that one first"
                    )
                _ACTIVE.add(self.decoder)
            undo.callback(_ACTIVE.discard, self.decoder)
            with contained(self.ready.name, "lora_folder"):
                folder = self.pruner.lora_folder
            undo.enter_context(tuned(self.model, folder))
            if self.needs & ATTENTION:
                undo.enter_context(probed(self.config))
                undo.callback(self._unwatch)
            if self.observer is not None:
                undo.enter_context(self.observer.attached())
            undo.callback(self.inside.close)
            before(undo, self.decoder, self._enter_decoder)
            after(undo, self.decoder, self._leave_decoder)
            yield self.trace

    def _unwatch(self) -> None:
        for layer in self.layers:
            unwatch(self.parts.attention(layer))

    def expect(self, prompt: Call) -> None:
        """The next call of the decoder is the prefill of this prompt."""
        self.prompt, self.waiting = prompt, True

    def look_at_logits(self, output: Any) -> None:
        """Check what the whole model put out; raises NotFinite, here or when the call or the block
        ends.
        """
        logits = getattr(output, "logits", None)
        if not isinstance(logits, Tensor):
            logits = (
                next((part for part in output if isinstance(part, Tensor)), None)
                if isinstance(output, tuple)
                else None
            )
        if logits is None or self.prompt is None:
            return
        place, spared = f"the logits of decoding step {self.step}", None
        if not self.step:
            place, count = "the logits of the prefill", logits.shape[1]
            stream = self.live[-1]
            if self.prompt.kept_logits is None and stream.padded and count <= stream.width:
                spared = ~stream.valid(logits.device)[:, -count:]
        self.step += 1
        self.finite.look(logits, place, list(range(len(logits))), spared)

    # ---- prefill ---------------------------------------------------------------------------------

    def _begin(self, embeds: Tensor, mask: Any) -> None:
        """Lay out the whole prompt as the first stream."""
        assert self.prompt is not None
        self.visual, self.layouts, self.drafts = (
            self.prompt.visual,
            self.prompt.layouts,
            self.prompt.drafts,
        )
        self._check_call(embeds)
        self.whole = self.prompt.stream or Stream.of_prompt(embeds.shape[0], embeds.shape[1], mask)
        depth = len(self.layers)
        self.live = [self.whole] * depth
        self.now = self.whole
        self.ids: Tensor | None = None
        self.ids_last: Tensor | None = None
        self.input_last: Tensor | None = None
        self.frames: list[_Frame | None] = [None] * depth
        self.memos: list[dict[str, Any]] = [{} for _ in self.layouts]
        self.heads: dict[Signal, list[Tensor]] = {}
        self.cache = None
        self.step = 0
        self.drafting = False
        # an answer starts from the prompt's last position, which therefore survives
        self.pinned = self.visual[:, embeds.shape[1] - self.drafts - 1].tolist()
        samples = [self._sample(row, layout, depth) for row, layout in enumerate(self.layouts)]
        self.trace.reset(samples)
        self.finite.forget()
        self._observe()
        self.sites = sorted({stage.site for sample in samples for stage in sample.stages})
        self.drops = any(
            stage.keep < one.available or self.pruner.dynamic
            for one in samples
            for stage in one.stages
        )
        if self.drops:
            check_window(self.window, self.whole.width)
        self.inside.close()
        self.layers_hooked = False
        if self.needs & BEFORE:
            self._unwatch()  # of a prefill that failed
        if any(site.part is Part.LLM for site in self.sites):
            before(self.inside, self.rotary, self._see_positions)
            self._hook_layers()

    def _check_call(self, embeds: Tensor) -> None:
        """Raise EngineError for a prefill that no seam serves, before it fails as something else."""
        if tuple(embeds.shape[:2]) != tuple(self.visual.shape):
            shapes = (
                f"{tuple(embeds.shape[:2])} embeddings for a prompt of {tuple(self.visual.shape)}"
            )
            raise EngineError(
                f"the decoder got {shapes}; prompts in chunks (chunked prefill) and tokens that a wrapper adds to the "
                "prompt (prompt tuning) are not supported"
            )
        check_kernel(self.config, self.kernel, probes=bool(self.needs & ATTENTION))
        if self.observer is not None:
            self.observer.check_kernels()
        parts = [self.decoder, *self.layers] if self.decoder.training else []
        if any(getattr(part, "gradient_checkpointing", False) for part in parts):
            raise EngineError(
                "gradient checkpointing is on, which drops the cache while training: call "
                "model.gradient_checkpointing_disable() or model.eval()"
            )

    def _sample(self, row: int, layout: Layout, depth: int) -> SampleTrace:
        """The record of one sample, with its stages planned."""
        available, alive = len(layout), self.whole.source[row]
        stages = planned(self.ready, self.budget, self.plan, available, depth)
        return SampleTrace(layout, available, len(alive) - available - self.drafts, stages)

    def _observe(self) -> None:
        """Take what was read in the vision encoder, and charge what reading took."""
        if self.observer is None:
            return
        assert self.prompt is not None
        keys, fresh = self.observer.keys, self.observer.read()
        self.observed = required(
            fresh if fresh is not None else self.prompt.observed, keys, self.ready.name
        )
        cost = self.observed.cost(keys)
        self.trace.charge(*cost)
        self.trace.seconds["observe"] = cost[0] if fresh is not None else 0.0

    def _hook_layers(self) -> None:
        """Hook the layers from the one before the first site on, which may be asked for its
        attention.
        """
        first = min((site.layer for site in self.sites if site.part is Part.LLM), default=1)
        for number in range(first - 1, len(self.layers)):
            before(self.inside, self.layers[number], partial(self._enter_layer, number))
        self.layers_hooked = True

    def _last(self, ids: Tensor, stream: Stream) -> Tensor:
        """[.., B, 1] the position behind which the answer goes on, of `ids` [.., B, n] over
        `stream`, drafts included.

        It is the prompt's last; behind an image models themselves take the highest on any of
        M-RoPE's axes, while transformers' `generate` goes on from the last on each, and neither is
        corrected here. A fourth leading row of ids holds plain text positions and stands by itself.
        """
        ids = ids[..., : ids.shape[-1] - self.drafts]
        if not any(self.pinned) or (self.prompt is not None and self.prompt.generated):
            return ids[..., -1:]
        valid = stream.without(self.drafts).valid(ids.device)
        highest = torch.where(valid, ids, 0).amax(-1, keepdim=True)
        if ids.ndim == 2:
            return highest
        axes = highest[-3:].amax(0, keepdim=True).expand_as(highest[-3:])
        return torch.cat([highest[:-3], axes])

    def _enter_decoder(self, args: Any, kwargs: Kwargs) -> tuple[Any, Kwargs] | None:
        embeds = kwargs.get("inputs_embeds")
        if embeds is None:
            raise EngineError("the decoder was called without inputs_embeds")
        if not self.waiting:
            return self._resume_decoder(args, kwargs)
        self.waiting, self.prefilling = False, True
        self._begin(embeds, kwargs.get("attention_mask"))
        given, kwargs = kwargs, self._take_over_injected(kwargs)
        if INPUT not in self.sites:
            return None if kwargs is given else (args, kwargs)
        stream, hidden = self._apply(INPUT, embeds, {})
        if stream is self.whole:
            return (
                None
                if hidden is embeds and kwargs is given
                else (args, {**kwargs, "inputs_embeds": hidden})
            )
        ids = kwargs.get("position_ids")
        if ids is None:
            ids = torch.arange(self.whole.width, device=embeds.device)[None]
        ids = gather(ids, self.whole.columns(stream, embeds.device))
        ids = closed_up(ids, stream) if self.compact_ids else ids
        self.trace.positions.append(ids)
        self.input_last = self._last(ids, stream)
        self.live = [stream] * len(self.layers)
        # explicit on purpose: without a mask, gaps in position_ids read as packed sequences
        mask = stream.valid(embeds.device).long()
        return args, {
            **kwargs,
            "inputs_embeds": hidden,
            "position_ids": ids,
            "attention_mask": mask,
        }

    def _take_over_injected(self, kwargs: Kwargs) -> Kwargs:
        """Where a stage comes before the last layer that adds visual features, add those of the
        live tokens ourselves.
        """
        bare, features = self.parts.injected(kwargs)
        if not any(site.layer < len(features) for site in self.sites):
            return kwargs
        for number, rows in enumerate(features):
            hook = partial(self._inject, number, rows)
            self.inside.callback(self.layers[number].register_forward_hook(Hook(hook)).remove)
        return bare

    def _inject(self, number: int, rows: Tensor, _layer: nn.Module, _args: Any, output: Any) -> Any:
        if not self.prefilling:
            return None
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        stream, start = self.live[number], 0
        for row, layout in enumerate(self.layouts):
            source = stream.source[row]
            places = self.visual[row][source].nonzero()[:, 0]
            ordinal = (self.visual[row].cumsum(0) - 1)[source[places]] + start
            columns = (places + stream.start(row)).to(hidden.device)
            hidden[row, columns] = hidden[row, columns] + rows[ordinal.to(rows.device)].to(hidden)
            start += len(layout)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    def _see_positions(self, args: Any, kwargs: Kwargs) -> None:
        self.ids = kwargs.get("position_ids", args[1] if len(args) > 1 else None)
        if self.prefilling and self.ids is not None:
            self.ids_last = self._last(self.ids, self.live[0])

    def _enter_layer(self, number: int, args: Any, kwargs: Kwargs) -> tuple[Any, Kwargs] | None:
        if not self.prefilling:
            return self._resume_layer(number, args, kwargs)
        hidden = args[0] if args else kwargs["hidden_states"]
        changed = self._framed(kwargs, self.frames[number - 1]) if number else kwargs
        self.frames[number] = self.frames[number - 1] if number else None
        site = llm(number) if number else None
        if site in self.sites:
            assert site is not None
            changed, hidden = self._apply_at_layer(site, hidden, changed)
        if llm(number + 1) in self.sites and self.needs & BEFORE:
            watch(self.parts.attention(self.layers[number]), self._probe)
        if changed is kwargs and (not args or hidden is args[0]):
            return None
        return (
            ((hidden, *args[1:]), changed) if args else (args, {**changed, "hidden_states": hidden})
        )

    def _apply_at_layer(self, site: Site, hidden: Tensor, kwargs: Kwargs) -> tuple[Kwargs, Tensor]:
        entered = self.now
        if self.needs & PROBE:
            self._ask_probe(site, hidden, kwargs)
        stream, rows = self._apply(site, hidden, kwargs)
        compact = {
            s.compact for sample in self.trace.samples for s in sample.stages if s.site == site
        }
        if len(compact) > 1:
            raise EngineError(
                f"{type(self.pruner).__name__} compacts at {site} for some samples of the batch only"
            )
        if True in compact:
            self._compact(site.layer, stream, kwargs.get("past_key_values"))
        if stream is entered:
            return kwargs, rows
        device = hidden.device
        index = entered.columns(stream, device)
        frame = self.frames[site.layer]
        ids = frame.ids if frame is not None else self.ids
        if ids is None:
            raise EngineError("the decoder's rotary module was not given position ids")
        ids = gather(ids, index)
        ids = closed_up(ids, stream) if self.compact_ids else ids
        assert self.ids_last is not None
        own = kwargs.get("position_ids")
        self.frames[site.layer] = frame = _Frame(
            ids=ids,
            shift=(self.ids_last - self._last(ids, stream)) if self.compact_ids else None,
            tables=self.rotary.forward(rows, ids),
            own=None if own is None else gather(own, index),
            mask=attention_mask(stream, stream.width, 0, self.kernel, rows),
        )
        self.trace.positions.append(ids)
        self.live[site.layer :] = [stream] * (len(self.live) - site.layer)
        return self._framed(kwargs, frame), rows

    def _framed(self, kwargs: Kwargs, frame: _Frame | None) -> Kwargs:
        """The layer's arguments in the current stream; every layer from the stage on needs it, the
        loop passes full ones.
        """
        if frame is None:
            return kwargs
        changed = {**kwargs, "position_embeddings": frame.tables, "attention_mask": frame.mask}
        if "position_ids" in kwargs:
            changed["position_ids"] = frame.own
        return changed

    def _compact(self, layer: int, stream: Stream, cache: Any) -> None:
        """Remove what died at `layer` from the caches of the layers before it too."""
        for number, part in enumerate(checked(cache).layers[:layer]):
            pick(part, self.live[number].columns(stream, part.keys.device))
            self.live[number] = stream

    def _apply(self, site: Site, hidden: Tensor, kwargs: Kwargs) -> tuple[Stream, Tensor]:
        """Run the pruner on every sample with a stage at `site`; the stream behind it and the rows
        [B, n, D] that enter.
        """
        entered, device = self.now, hidden.device
        source = list(entered.source)
        merged: list[tuple[int, Tensor, Tensor]] = []
        heads = self._next_heads(site, hidden, kwargs)
        for row, sample in enumerate(self.trace.samples):
            stage = next((s for s in sample.stages if s.site == site), None)
            if stage is None:
                continue
            visual = self.visual[row][entered.source[row]]
            places = visual.nonzero()[:, 0]
            ordinal = (self.visual[row].cumsum(0) - 1)[entered.source[row][places]]
            index, features = self._choose(
                _Offer(row, stage, places, ordinal, ~visual), hidden, heads
            )
            if features is not None:
                merged.append((row, entered.source[row][places[index]], features))
            if self.pinned[row]:
                index = torch.cat([index, index.new_tensor([len(places) - 1])])
            live = ~visual
            live[places[index]] = True
            source[row] = entered.source[row][live]
            sample.kept[site] = ordinal[index]
        self.heads = {}
        if all(len(new) == len(old) for new, old in zip(source, entered.source, strict=True)):
            stream, rows = entered, hidden
        else:
            stream = entered.narrowed(source)
            rows = hidden.gather(
                1, entered.columns(stream, device)[..., None].expand(-1, -1, hidden.shape[-1])
            )
        if merged:
            rows = rows.clone()
            for row, survivors, features in merged:
                columns = torch.searchsorted(source[row], survivors) + stream.start(row)
                rows[row, columns.to(device)] = features.to(rows)
        self.now = stream
        return stream, rows

    # ---- what the pruner sees --------------------------------------------------------------------

    def _choose(
        self, offer: _Offer, hidden: Tensor, heads: Heads | None
    ) -> tuple[Tensor, Tensor | None]:
        """The survivors [K] among a sample's tokens at a stage, ascending, with their merged rows;
        the last may be pinned.

        Only the signals and the pruner are charged to the method; whatever it is shown is a copy.
        """
        row, stage, device = offer.row, offer.stage, hidden.device
        if self.pinned[row]:
            stage = replace(stage, keep=stage.keep - 1)
            offer = replace(offer, places=offer.places[:-1], ordinal=offer.ordinal[:-1])
            if not stage.keep or not len(offer.places):
                return torch.empty(0, dtype=torch.int64), None
        columns = (offer.places + self.now.start(row)).to(device)
        with self.trace.selecting(device, [row]):
            signals = self._signals(offer, hidden, columns, heads)
        features = hidden[row, columns]
        self.finite.look(features[None], f"features at {stage.site}", [row])
        for signal, value in signals.items():
            if isinstance(value, Tensor):
                self.finite.look(value[None], f"{signal} at {stage.site}", [row])
        tokens = self._tokens(offer, features, signals)
        try:
            with self.trace.selecting(device, [row]), contained(self.ready.name, "prune"):
                keep = self.pruner.prune(tokens, stage)
        except Exception:
            self.finite.settle()  # what the method stumbled over has a better name
            raise
        # checked against tokens that the method has not had in its hands
        return answered(
            self.pruner, keep, replace(tokens, features=features, index=offer.ordinal), stage
        )

    def _tokens(self, offer: _Offer, features: Tensor, signals: dict[Signal, Any]) -> VisualTokens:
        """What a pruner is shown: copies, so that what it changes in place reaches neither the
        engine nor another method.
        """
        assert self.prompt is not None
        given = self.prompt.given[offer.row] if self.prompt.given else {}
        shown = {signal: _copied(value) for signal, value in given.items() if signal in self.needs}
        return VisualTokens(
            features=features.clone(),
            layout=_copied(self.layouts[offer.row]),
            index=offer.ordinal.clone(),
            site=offer.stage.site,
            question=self.prompt.questions[offer.row],
            seed=self.prompt.seeds[offer.row],
            memo=self.memos[offer.row],
            signals=signals | shown,
        )

    def _signals(
        self, offer: _Offer, hidden: Tensor, columns: Tensor, heads: Heads | None
    ) -> dict[Signal, Any]:
        """The declared observations of the offered tokens, which stand in the `columns` [N] of
        `hidden`.
        """
        assert self.prompt is not None
        row, needs = offer.row, self.needs
        signals: dict[Signal, Any] = {s: values[row] for s, values in self.heads.items()}
        signals = {s: v.index_select(TOKEN_AXIS[s], columns) for s, v in signals.items()}
        if heads is not None:
            signals[Signal.NEXT_QUERY_ATTENTION] = self._last_row(heads, row)[:, 0, columns]
        for signal, blocks in self.reads.items():
            signals[signal] = self.observed.of(signal, blocks, self.prompt.rows[row], offer.ordinal)
        text = offer.text[: len(offer.text) - self.drafts].nonzero()[:, 0]
        if Signal.TEXT_FEATURES in needs:
            signals[Signal.TEXT_FEATURES] = hidden[
                row, (text + self.now.start(row)).to(hidden.device)
            ]
        if Signal.TEXT_PIECES in needs:
            said = self.prompt.pieces[row]
            signals[Signal.TEXT_PIECES] = tuple(
                said[place] for place in self.now.source[row][text].tolist()
            )
        if Signal.CLIP_TEXT in needs:
            signals[Signal.CLIP_TEXT] = self._clip_text(row, hidden)
        return signals

    def _clip_text(self, row: int, hidden: Tensor) -> Tensor:
        assert self.prompt is not None
        assert self.clip is not None
        clip = load_clip(self.clip, hidden.device, hidden.dtype)
        with contained(self.ready.name, "texts"):
            texts = self.pruner.texts(self.prompt.questions[row] or "")
        embeddings, cut = clip.texts(texts)
        if cut:
            self.trace.samples[row].notes.append(
                f"{cut} texts were longer than CLIP reads and were cut off"
            )
        return embeddings

    def _ask_probe(self, site: Site, hidden: Tensor, kwargs: Kwargs) -> None:
        """Run the pruner's probe token behind the prompt, through the layers before `site`."""
        with contained(self.ready.name, "probe"):
            token = self.pruner.probe()
        if token is None:
            raise EngineError(
                f"{name_of(self.pruner)} reads the attention of a probe token, but its probe() gives none"
            )
        if token.shape != (len(self.layers), hidden.shape[-1]):
            due = [len(self.layers), hidden.shape[-1]]
            raise EngineError(
                f"{name_of(self.pruner)}'s probe is {list(token.shape)}; this model takes {due}"
            )
        frame, rows = self.frames[site.layer], range(len(self.layouts))
        ids = self._last(frame.ids, self.now) if frame is not None else self.ids_last
        if ids is None:
            raise EngineError("the decoder's rotary module was not given position ids")
        cache = checked(kwargs.get("past_key_values"))
        with self._without_drafts(cache), self.trace.selecting(hidden.device, list(rows)):
            _, heads = aside(
                self.parts,
                self.model,
                token[0].to(hidden).expand(len(rows), 1, -1),
                added=token,
                ids=ids.expand(*ids.shape[:-2], len(rows), 1) + 1,
                streams=[stream.without(self.drafts) for stream in self.live[: site.layer]],
                cache=cache,
                kwargs=kwargs,
                watched=site.layer - 1,
            )
            assert heads is not None
            logits = [heads.logits(row) for row in rows]
            if Signal.PROBE_LOGITS in self.needs:
                self.heads[Signal.PROBE_LOGITS] = [values[:, 0] for values in logits]
            if Signal.PROBE_LOG_ATTENTION in self.needs:
                valid = self.now.without(self.drafts).valid(hidden.device)
                seen = torch.cat([valid, valid.new_ones(len(rows), 1)], dim=1)
                self.heads[Signal.PROBE_LOG_ATTENTION] = [
                    values[:, 0].masked_fill(~seen[row], float("-inf")).log_softmax(-1)
                    for row, values in enumerate(logits)
                ]

    @contextmanager
    def _without_drafts(self, cache: Any) -> Iterator[None]:
        """The cache as the prompt alone left it: what a probe sees does not depend on guesses
        behind it.
        """
        if not self.drafts:
            yield
            return
        layers = [layer for layer in cache.layers if layer.keys is not None]
        held = [(layer.keys, layer.values) for layer in layers]
        for layer in layers:
            layer.keys, layer.values = (
                layer.keys[:, :, : -self.drafts],
                layer.values[:, :, : -self.drafts],
            )
        try:
            yield
        finally:
            for layer, (keys, values) in zip(layers, held, strict=True):
                layer.keys, layer.values = keys, values

    def _probe(self, heads: Heads) -> None:
        """Keep of the watched layer's attention what the pruner asked for; all columns, the stage
        picks the visual ones.
        """
        self._unwatch()
        heads = heads.without(self.drafts)
        needs = self.needs
        rows = range(len(self.layouts))
        with self.trace.selecting(heads.key.device, list(rows)):
            if Signal.LAST_QUERY_ATTENTION in needs:
                self.heads[Signal.LAST_QUERY_ATTENTION] = [
                    self._last_row(heads, row)[:, 0] for row in rows
                ]
            if Signal.TEXT_ATTENTION in needs:
                self.heads[Signal.TEXT_ATTENTION] = [self._text_rows(heads, row) for row in rows]
            if Signal.KEYS in needs:
                self.heads[Signal.KEYS] = list(heads.key)

    def _last_row(self, heads: Heads, row: int) -> Tensor:
        """[H, 1, S] attention of the prompt's last position."""
        device, stream = heads.key.device, self.now.without(self.drafts)
        places = torch.arange(stream.width, device=device)
        return heads.rows(row, places[-1:], stream.valid(device)[row], places)

    def _text_rows(self, heads: Heads, row: int) -> Tensor:
        """[H, Q, S] attention of the text positions behind the first visual one."""
        device, stream = heads.key.device, self.now.without(self.drafts)
        visual = self.visual[row][stream.source[row]]
        text = ((visual.cumsum(0) > 0) & ~visual).nonzero()[:, 0] + stream.start(row)
        places = torch.arange(stream.width, device=device)
        return heads.rows(row, text.to(device), stream.valid(device)[row], places)

    def _next_heads(self, site: Site, hidden: Tensor, kwargs: Kwargs) -> Heads | None:
        if Signal.NEXT_QUERY_ATTENTION not in self.needs:
            return None
        layer = self.layers[site.layer]
        with self.trace.selecting(hidden.device, list(range(len(self.layouts)))):
            return dry_run(layer, self.parts.attention(layer), hidden, kwargs).without(self.drafts)

    def _leave_decoder(self, _args: Any, output: Any) -> None:
        """After every prefill: text all there, caches and counts as planned."""
        if not self.prefilling:
            return
        self.prefilling = False
        self.cache = checked(getattr(output, "past_key_values", None))
        for sample in self.trace.samples:
            sample.entering = [len(sample.alive(number)) for number in range(len(self.layers))]
        lengths = [part.get_seq_length() for part in self.cache.layers]
        settled(self.pruner, self.trace.samples, self.visual, self.live, lengths, self.drafts)
        self._map_logits()
        # from here on drafts are an answer's tokens like others, and may be taken back
        streams = {id(stream): stream.without(self.drafts) for stream in self.live}
        self.live = [streams[id(stream)] for stream in self.live]
        self.whole = streams.get(id(self.whole), self.whole.without(self.drafts))
        self._count_bytes()
        if not self._steers_decoding():
            self.inside.close()
            self.layers_hooked = False
        self.finite.settle()

    def _count_bytes(self) -> None:
        """Note what the prefill left in the cache."""
        for row, sample in enumerate(self.trace.samples):
            sample.kv_bytes = live_bytes(
                self.cache, [len(stream.source[row]) for stream in self.live]
            )
            sample.kv_bytes_padded = live_bytes(self.cache, [stream.width for stream in self.live])

    def _map_logits(self) -> None:
        """Change the positions whose logits are asked for to the columns where they are now."""
        assert self.prompt is not None
        kept, stream = self.prompt.kept_logits, self.live[-1]
        if kept is None:
            return
        positions, columns = kept.cpu(), []
        for row, source in enumerate(stream.source):
            gone = positions[~torch.isin(positions, source)]
            if len(gone):
                raise EngineError(
                    f"logits_to_keep asks for position {int(gone[0])}, which is pruned or padding in sample {row}; "
                    "ask for positions of text"
                )
            columns.append(torch.searchsorted(source, positions) + stream.start(row))
        if any(not torch.equal(columns[0], other) for other in columns):
            raise EngineError(
                "logits_to_keep means other places in each pruned sample; call the model for one at a time"
            )
        kept.copy_(columns[0])

    def _steers_decoding(self) -> bool:
        """Whether a layer needs other arguments than the first while decoding: a mask of its
        length, or moved positions.
        """
        masked = self.kernel != "sdpa" or any(stream.padded for stream in self.live)
        return (self._uneven() and masked) or any(
            frame is not None and frame.shift is not None for frame in self.frames
        )

    def _uneven(self) -> bool:
        """Whether layers hold different positions."""
        return any(stream is not self.live[0] for stream in self.live)

    # ---- decoding --------------------------------------------------------------------------------

    def _resume_decoder(self, args: Any, kwargs: Kwargs) -> tuple[Any, Kwargs] | None:
        embeds = kwargs["inputs_embeds"]
        cache: Any = kwargs.get("past_key_values")
        self.check_resumed(cache)
        count = embeds.shape[1]
        self.drafting = self.drafting or count > 1 or self.drafts > 0
        self.drafts = 0
        if self.drafting:
            self._take_back(kwargs.get("attention_mask"), count)
        if self.drops and self.window is not None:
            fresh = cache.get_seq_length() - self.live[0].width
            check_window(self.window, self.whole.width + fresh + count)
        if count > 1 and self._uneven() and not self.layers_hooked:
            self._hook_layers()  # several queries need a mask where one does not
        self.frame_tables: dict[int, Any] = {}
        if self.live[0] is self.whole:
            return None
        changed = dict(kwargs)
        step = cache.get_seq_length() - self.live[0].width
        if self.live[0].padded or self.kernel != "sdpa" or count > 1:
            valid = self.live[0].valid(embeds.device).long()
            changed["attention_mask"] = torch.cat(
                [valid, valid.new_ones(valid.shape[0], step + count)], dim=1
            )
        else:
            changed["attention_mask"] = None  # one query sees every key
        last = self.input_last if self.input_last is not None else self.ids_last
        if (
            last is not None
        ):  # by hand a model counts positions from the cache, which is shorter than the prompt now
            changed["position_ids"] = last + 1 + step + torch.arange(count, device=last.device)
        return args, changed

    def check_resumed(self, cache: Any) -> None:
        """Raise EngineError unless this is the cache that the session filled."""
        if cache is not None and cache is self.cache:
            return
        if cache is not None and getattr(cache, "get_seq_length", int)() > 0:
            raise EngineError(
                f"past_key_values holds {cache.get_seq_length()} tokens that were read outside this prune(...) block: "
                "give the whole prompt and no past_key_values"
            )
        raise EngineError(
            "the decoder was called by itself; call the whole model inside prune(...), not a part or its forward"
        )

    def _take_back(self, mask: Any, count: int) -> None:
        """Cut rejected drafts out of the layers; raises EngineError where these disagree on how far
        the answer is.

        Newer versions of transformers have done so; older ones cut every layer to the prompt's full
        length, which a pruned layer never reaches. `generate` says how far the answer is by `mask`
        [B, prompt and answer], which covers `count` new tokens.
        """
        assert self.prompt is not None
        layers = self.cache.layers
        fresh = [
            part.get_seq_length() - stream.width
            for part, stream in zip(layers, self.live, strict=True)
        ]
        if self.prompt.generated and isinstance(mask, Tensor) and mask.dim() == 2:
            due = mask.shape[1] - self.whole.width - count
            for number, part in enumerate(layers):
                if 0 <= due < fresh[number]:
                    part.crop(due - fresh[number])
                    fresh[number] = due
        if len({*fresh}) > 1:
            raise EngineError(
                f"the layers' caches hold {min(fresh)} to {max(fresh)} tokens of the answer; they must agree"
            )

    def _resume_layer(self, number: int, args: Any, kwargs: Kwargs) -> tuple[Any, Kwargs] | None:
        hidden = args[0] if args else kwargs["hidden_states"]
        changed = dict(kwargs)
        stream = self.live[number]
        if stream is not self.live[0]:
            count = hidden.shape[1]
            fresh = self.cache.layers[number].get_seq_length() - stream.width + count
            changed["attention_mask"] = attention_mask(stream, count, fresh, self.kernel, hidden)
        frame = self.frames[number]
        if frame is not None and frame.shift is not None:
            assert self.ids is not None
            if id(frame) not in self.frame_tables:
                self.frame_tables[id(frame)] = self.rotary.forward(hidden, self.ids - frame.shift)
            changed["position_embeddings"] = self.frame_tables[id(frame)]
        return args, changed


@dataclass(frozen=True)
class _Offer:
    """One sample's visual tokens at a stage.

    `places` [N] in the sample's live sequence, `ordinal` [N] among its original visual tokens,
    `text` [n] bool over the live sequence: what is no visual token.
    """

    row: int
    stage: Stage
    places: Tensor
    ordinal: Tensor
    text: Tensor


@dataclass(frozen=True, eq=False)
class _Frame:
    """What the layers of one stream are given in place of the full sequence's.

    `ids` [.., B, n] position ids, `shift` [.., B, 1] how far they moved at the end of the prompt
    (None: not at all), `tables` the rotary tables of `ids`, `own` the layer's own position_ids
    argument, `mask` as the kernel takes it.
    """

    ids: Tensor
    shift: Tensor | None
    tables: Any
    own: Tensor | None
    mask: Tensor | None


def _copied(value: Any) -> Any:
    """A copy that shares no tensor with `value`: a tensor, a layout, or a tuple of such."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, tuple):
        return tuple(_copied(entry) for entry in value)
    if isinstance(value, Layout):
        twin = copy(value)
        for name, held in vars(value).items():
            if isinstance(held, Tensor):
                setattr(twin, name, held.clone())
        return twin
    return value
