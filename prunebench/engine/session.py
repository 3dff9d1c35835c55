"""Session: one pruner at work in one stock transformers model, through hooks that leave no trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from prunebench.budget import Budget, Stage
from prunebench.engine.aside import aside
from prunebench.engine.clip import load_clip
from prunebench.engine.contract import ATTENTION, BEFORE, answered, planned, settled
from prunebench.engine.lora import tuned
from prunebench.engine.probes import Heads, dry_run, implementation, probed, unwatch, watch
from prunebench.engine.prompt import Prompt, Reader, Told
from prunebench.engine.ready import Ready, make_ready
from prunebench.engine.stream import EngineError, Stream, attention_mask, closed_up, gather
from prunebench.engine.trace import SampleTrace, Trace
from prunebench.engine.vision import Observer, required
from prunebench.models import adapter_of
from prunebench.models.base import Adapter, DecoderParts, Unsupported
from prunebench.pruner import Positions, Pruner
from prunebench.registry import name_of
from prunebench.sites import INPUT, Part, Site, llm
from prunebench.tokens import PROBE, TOKEN_AXIS, Layout, Signal, VisualTokens

Kwargs = dict[str, Any]

_ACTIVE: WeakSet[nn.Module] = WeakSet()


@contextmanager
def prune(
    model: nn.Module,
    pruner: Pruner | Ready | str,
    budget: Budget | int | float | str | None = None,
    *,
    positions: Positions | None = None,
    layouts: Sequence[Layout] | None = None,
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

    `budget` None means the method's own. `positions` overrides what the method's paper does with position ids; `plan` sets
    the stages and leaves the budget aside. What some methods read and only the caller has, one a sample: `seeds`,
    `questions`, `pictures` (images and videos, [F, H, W, 3] uint8 each), `masks` ([Q, H, W] bool an image); and the
    `processor`. `layouts`, one a sample, say where its tokens lie, for a caller who knows; else they are read off the
    inputs at every prefill. A method that is used often is bound to the model once, by `make_ready`.

    The trace is that of the latest prefill. Raises EngineError, BudgetError, Unsupported or RegistryError, never alters
    results quietly.
    """
    adapter = adapter_of(model)
    ready = pruner if isinstance(pruner, Ready) else make_ready(adapter, model, pruner)
    session = Session(adapter, model, ready, budget, positions, plan, Trace(timed, count_flops))
    told, needs = Told(seeds, questions, pictures, masks, processor, layouts), session.pruner.needs
    missing = told.missing(needs)
    if missing is not None:
        raise Unsupported(f"{ready.name} needs the {missing} of the samples: prune(..., {missing}=...)")
    reader = Reader(adapter, told, needs, session.expect, session.observer)
    with session.attached() as trace, ExitStack() as undo:
        undo.callback(model.register_forward_pre_hook(reader, with_kwargs=True).remove)
        undo.enter_context(reader.overhearing(model))
        yield trace


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
    """The same for a bare decoder called with `inputs_embeds`; `visual` [B, S] bool marks its visual positions.

    `signals`, a mapping a row, stand for those that a bare decoder cannot give; they are shown as they are.
    """
    known = frozenset(signal for row in signals for signal in row)
    parts = DecoderParts()
    session = Session(parts, decoder, make_ready(parts, decoder, pruner, known), budget, positions, plan, Trace())
    with session.attached() as trace:
        nobody = [None] * len(layouts)
        session.expect(Prompt(visual.cpu(), layouts, [0] * len(layouts), nobody, given=signals))
        yield trace


class Session:
    """Hooks for one model and one pruner; the state is that of the batch in flight."""

    def __init__(
        self,
        parts: DecoderParts,
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
        self.parts, self.model, self.pruner, self.plan, self.trace = parts, model, pruner, plan, trace
        self.budget = None if budget is None else Budget.parse(budget)
        self.compact_ids = (positions or pruner.default_positions) == "compact"
        self.decoder, self.layers = parts.decoder(model), parts.layers(model)
        self.rotary = parts.rotary(model)
        config: Any = self.decoder.config
        if implementation(config) not in ("sdpa", "eager") and "flash" not in implementation(config):
            raise Unsupported(f"attention {implementation(config)!r} is not supported; use sdpa, eager or flash attention")
        self.config = config
        self.reads, self.clip = ready.reads, ready.clip
        self.observer: Observer | None = None
        if isinstance(parts, Adapter) and self.reads:
            self.observer = Observer(parts, model, self.reads, count=trace.count_flops)
        self.prompt: Prompt | None = None
        self.waiting = self.prefilling = False
        self.inside = ExitStack()
        """Hooks inside the decoder, for as long as the batch in flight needs them: hooked layers cost time at every step."""

    @contextmanager
    def attached(self) -> Iterator[Trace]:
        """Install the hooks; on leaving, the model is as it was."""
        if self.model in _ACTIVE:
            raise EngineError("this model is inside another prune(...) block; leave that one first")
        with ExitStack() as undo:
            _ACTIVE.add(self.model)
            undo.callback(_ACTIVE.discard, self.model)
            undo.enter_context(tuned(self.model, self.pruner.adapter))
            if self.pruner.needs & ATTENTION:
                undo.enter_context(probed(self.config))
                undo.callback(self._unwatch)
            if self.observer is not None:
                undo.enter_context(self.observer.attached())
            undo.callback(self.inside.close)
            self._hook(undo, self.decoder, self._enter_decoder)
            undo.callback(self.decoder.register_forward_hook(self._leave_decoder).remove)
            yield self.trace

    def _unwatch(self) -> None:
        for layer in self.layers:
            unwatch(self.parts.attention(layer))

    @staticmethod
    def _hook(undo: ExitStack, module: nn.Module, entered: Callable[[Any, Kwargs], Any]) -> None:
        handle = module.register_forward_pre_hook(lambda _, args, kwargs: entered(args, kwargs), with_kwargs=True)
        undo.callback(handle.remove)

    def expect(self, prompt: Prompt) -> None:
        """The next call of the decoder is the prefill of this prompt."""
        self.prompt, self.waiting = prompt, True

    # ---- prefill --------------------------------------------------------------------------------------------------

    def _begin(self, embeds: Tensor, mask: Any) -> None:
        """Lay out the whole prompt as the first stream."""
        assert self.prompt is not None
        self.visual, self.layouts = self.prompt.visual, self.prompt.layouts
        if tuple(embeds.shape[:2]) != tuple(self.visual.shape):
            shapes = f"{tuple(embeds.shape[:2])} embeddings for a prompt of {tuple(self.visual.shape)}"
            raise EngineError(f"the decoder got {shapes}; chunked prefill is not supported")
        if mask is not None and not isinstance(mask, Tensor):
            raise EngineError("the attention mask came ready-made for a static cache, which is not supported")
        self.whole = Stream.of_prompt(embeds.shape[0], embeds.shape[1], mask)
        depth = len(self.layers)
        self.live = [self.whole] * depth
        self.now = self.whole
        self.ids: Tensor | None = None
        self.ids_last: Tensor | None = None
        self.input_last: Tensor | None = None
        self.frames: list[_Frame | None] = [None] * depth
        self.memos: list[dict[str, Any]] = [{} for _ in self.layouts]
        self.heads: dict[Signal, list[Tensor]] = {}
        self.cache: Any = None
        samples = []
        for row, layout in enumerate(self.layouts):
            available = len(layout)
            stages = planned(self.pruner, self.budget, self.plan, available, depth, self.config)
            samples.append(SampleTrace(layout, available, len(self.whole.source[row]) - available, stages))
        self.trace.reset(samples)
        if self.observer is not None:
            keys = self.observer.keys
            seen = self.observer.read()
            self.observed = required(seen if seen is not None else self.prompt.observed, keys, name_of(self.pruner))
            cost = self.observed.cost(keys)
            self.trace.charge(*cost)
            self.trace.seconds["observe"] = cost[0] if seen is not None else 0.0
        self.sites = sorted({stage.site for sample in samples for stage in sample.stages})
        self.inside.close()
        first = min((s.layer for s in self.sites if s.part is Part.LLM), default=None)
        if first is not None:
            self._hook(self.inside, self.rotary, self._see_positions)
            for number in range(first - 1, depth):  # the layer before the first site may be asked for its attention
                self._hook(self.inside, self.layers[number], partial(self._enter_layer, number))

    def _enter_decoder(self, args: Any, kwargs: Kwargs) -> tuple[Any, Kwargs] | None:
        if self.prompt is None:
            raise EngineError("the decoder was called by itself; call the whole model inside prune(...)")
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
            return None if hidden is embeds and kwargs is given else (args, {**kwargs, "inputs_embeds": hidden})
        ids = kwargs.get("position_ids")
        if ids is None:
            ids = torch.arange(self.whole.width, device=embeds.device)[None]
        ids = gather(ids, self.whole.columns(stream, embeds.device))
        ids = closed_up(ids, stream) if self.compact_ids else ids
        self.trace.positions.append(ids)
        self.input_last = ids[..., -1:]
        self.live = [stream] * len(self.layers)
        # explicit on purpose: without a mask, gaps in position_ids read as packed sequences
        mask = stream.valid(embeds.device).long()
        return args, {**kwargs, "inputs_embeds": hidden, "position_ids": ids, "attention_mask": mask}

    def _take_over_injected(self, kwargs: Kwargs) -> Kwargs:
        """Where a stage comes before the last layer that adds visual features, add those of the live tokens ourselves."""
        bare, features = self.parts.injected(kwargs)
        if not any(site.layer < len(features) for site in self.sites):
            return kwargs
        for number, rows in enumerate(features):
            hook = partial(self._inject, number, rows)
            self.inside.callback(self.layers[number].register_forward_hook(hook).remove)
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
            self.ids_last = self.ids[..., -1:]

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
        if llm(number + 1) in self.sites and self.pruner.needs & BEFORE:
            watch(self.parts.attention(self.layers[number]), self._probe)
        if changed is kwargs and (not args or hidden is args[0]):
            return None
        return ((hidden, *args[1:]), changed) if args else (args, {**changed, "hidden_states": hidden})

    def _apply_at_layer(self, site: Site, hidden: Tensor, kwargs: Kwargs) -> tuple[Kwargs, Tensor]:
        before = self.now
        if self.pruner.needs & PROBE:
            self._ask_probe(site, hidden, kwargs)
        stream, after = self._apply(site, hidden, kwargs)
        compact = {s.compact for sample in self.trace.samples for s in sample.stages if s.site == site}
        if len(compact) > 1:
            raise EngineError(f"{type(self.pruner).__name__} compacts at {site} for some samples of the batch only")
        if True in compact:
            self._compact(site.layer, stream, kwargs.get("past_key_values"))
        if stream is before:
            return kwargs, after
        device = hidden.device
        index = before.columns(stream, device)
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
            shift=(self.ids_last - ids[..., -1:]) if self.compact_ids else None,
            tables=self.rotary.forward(after, ids),
            own=None if own is None else gather(own, index),
            mask=attention_mask(stream, stream.width, 0, implementation(self.config), after),
        )
        self.trace.positions.append(ids)
        self.live[site.layer :] = [stream] * (len(self.live) - site.layer)
        return self._framed(kwargs, frame), after

    def _framed(self, kwargs: Kwargs, frame: _Frame | None) -> Kwargs:
        """The layer's arguments in the current stream; every layer from the stage on needs it, the loop passes full ones."""
        if frame is None:
            return kwargs
        changed = {**kwargs, "position_embeddings": frame.tables, "attention_mask": frame.mask}
        if "position_ids" in kwargs:
            changed["position_ids"] = frame.own
        return changed

    def _compact(self, layer: int, stream: Stream, cache: Any) -> None:
        """Remove what died at `layer` from the caches of the layers before it too."""
        for number, part in enumerate(_checked(cache).layers[:layer]):
            index = self.live[number].columns(stream, part.keys.device)
            part.keys = _rows(part.keys, index)
            part.values = _rows(part.values, index)
            self.live[number] = stream

    def _apply(self, site: Site, hidden: Tensor, kwargs: Kwargs) -> tuple[Stream, Tensor]:
        """Run the pruner on every sample with a stage at `site`; the stream behind it and the rows [B, n, D] that enter."""
        before, device = self.now, hidden.device
        source = list(before.source)
        merged: list[tuple[int, Tensor, Tensor]] = []
        heads = self._next_heads(site, hidden, kwargs)
        for row, sample in enumerate(self.trace.samples):
            stage = next((s for s in sample.stages if s.site == site), None)
            if stage is None:
                continue
            with self.trace.selecting(device, [row]):
                seen = self.visual[row][before.source[row]]
                places = seen.nonzero()[:, 0]
                ordinal = (self.visual[row].cumsum(0) - 1)[before.source[row][places]]
                tokens = self._tokens(row, site, hidden, places, ordinal, ~seen, heads)
                keep = self.pruner.prune(tokens, stage)
                index, features = answered(self.pruner, keep, tokens, stage)
            survivors = places[index]
            live = ~seen
            live[survivors] = True
            source[row] = before.source[row][live]
            sample.kept[site] = ordinal[index]
            if features is not None:
                places_after = torch.searchsorted(source[row], before.source[row][survivors])
                merged.append((row, places_after, features))
        self.heads = {}
        if all(len(new) == len(old) for new, old in zip(source, before.source, strict=True)):
            stream, rows = before, hidden
        else:
            stream = before.narrowed(source)
            rows = hidden.gather(1, before.columns(stream, device)[..., None].expand(-1, -1, hidden.shape[-1]))
        if merged:
            rows = rows.clone()
            for row, places, features in merged:
                rows[row, (places + stream.start(row)).to(device)] = features.to(rows)
        self.now = stream
        return stream, rows

    # ---- what the pruner sees -------------------------------------------------------------------------------------

    def _tokens(
        self, row: int, site: Site, hidden: Tensor, places: Tensor, ordinal: Tensor, text: Tensor, heads: Heads | None
    ) -> VisualTokens:
        assert self.prompt is not None
        offset, device = self.now.start(row), hidden.device
        columns = (places + offset).to(device)
        signals: dict[Signal, Any] = {s: values[row] for s, values in self.heads.items()}
        signals = {s: v.index_select(TOKEN_AXIS[s], columns) for s, v in signals.items()}
        if heads is not None:
            signals[Signal.NEXT_QUERY_ATTENTION] = self._last_row(heads, row)[:, 0, columns]
        for signal, blocks in self.reads.items():
            signals[signal] = self.observed.of(signal, blocks, self.prompt.rows[row], ordinal)
        needs = self.pruner.needs
        if Signal.TEXT_FEATURES in needs:
            signals[Signal.TEXT_FEATURES] = hidden[row, (text.nonzero()[:, 0] + offset).to(device)]
        if Signal.TEXT_PIECES in needs:
            said = self.prompt.pieces[row]
            signals[Signal.TEXT_PIECES] = tuple(said[place] for place in self.now.source[row][text].tolist())
        if Signal.CLIP_TEXT in needs:
            signals[Signal.CLIP_TEXT] = self._clip_text(row, hidden)
        given = self.prompt.given[row] if self.prompt.given else {}
        signals |= {signal: value for signal, value in given.items() if signal in needs}
        return VisualTokens(
            features=hidden[row, columns],
            layout=self.layouts[row],
            index=ordinal,
            site=site,
            question=self.prompt.questions[row],
            seed=self.prompt.seeds[row],
            memo=self.memos[row],
            signals=signals,
        )

    def _clip_text(self, row: int, hidden: Tensor) -> Tensor:
        assert self.prompt is not None
        assert self.clip is not None
        clip = load_clip(self.clip, hidden.device, hidden.dtype)
        embeddings, cut = clip.texts(self.pruner.texts(self.prompt.questions[row] or ""))
        if cut:
            self.trace.samples[row].notes.append(f"{cut} texts were longer than CLIP reads and were cut off")
        return embeddings

    def _ask_probe(self, site: Site, hidden: Tensor, kwargs: Kwargs) -> None:
        """Run the pruner's probe token behind the prompt, through the layers before `site`."""
        token = self.pruner.probe()
        if token is None:
            raise EngineError(f"{name_of(self.pruner)} reads the attention of a probe token, but its probe() gives none")
        if token.shape != (len(self.layers), hidden.shape[-1]):
            due = [len(self.layers), hidden.shape[-1]]
            raise EngineError(f"{name_of(self.pruner)}'s probe is {list(token.shape)}; this model takes {due}")
        frame, rows = self.frames[site.layer], range(len(self.layouts))
        ids = frame.ids[..., -1:] if frame is not None else self.ids_last
        if ids is None:
            raise EngineError("the decoder's rotary module was not given position ids")
        with self.trace.selecting(hidden.device, list(rows)):
            _, heads = aside(
                self.parts,
                self.model,
                token[0].to(hidden).expand(len(rows), 1, -1),
                added=token,
                ids=ids.expand(*ids.shape[:-2], len(rows), 1) + 1,
                streams=self.live[: site.layer],
                cache=_checked(kwargs.get("past_key_values")),
                kwargs=kwargs,
                watched=site.layer - 1,
            )
            assert heads is not None
            logits = [heads.logits(row) for row in rows]
            if Signal.PROBE_LOGITS in self.pruner.needs:
                self.heads[Signal.PROBE_LOGITS] = [values[:, 0] for values in logits]
            if Signal.PROBE_LOG_ATTENTION in self.pruner.needs:
                valid = self.now.valid(hidden.device)
                seen = torch.cat([valid, valid.new_ones(len(rows), 1)], dim=1)
                self.heads[Signal.PROBE_LOG_ATTENTION] = [
                    values[:, 0].masked_fill(~seen[row], float("-inf")).log_softmax(-1) for row, values in enumerate(logits)
                ]

    def _probe(self, heads: Heads) -> None:
        """Keep of the watched layer's attention what the pruner asked for; all columns, the stage picks the visual ones."""
        self._unwatch()
        needs = self.pruner.needs
        rows = range(len(self.layouts))
        with self.trace.selecting(heads.key.device, list(rows)):
            if Signal.LAST_QUERY_ATTENTION in needs:
                self.heads[Signal.LAST_QUERY_ATTENTION] = [self._last_row(heads, row)[:, 0] for row in rows]
            if Signal.TEXT_ATTENTION in needs:
                self.heads[Signal.TEXT_ATTENTION] = [self._text_rows(heads, row) for row in rows]
            if Signal.KEYS in needs:
                self.heads[Signal.KEYS] = list(heads.key)

    def _last_row(self, heads: Heads, row: int) -> Tensor:
        """[H, 1, S] attention of the prompt's last position."""
        device = heads.key.device
        places = torch.arange(self.now.width, device=device)
        return heads.rows(row, places[-1:], self.now.valid(device)[row], places)

    def _text_rows(self, heads: Heads, row: int) -> Tensor:
        """[H, Q, S] attention of the text positions behind the first visual one."""
        device = heads.key.device
        seen = self.visual[row][self.now.source[row]]
        text = ((seen.cumsum(0) > 0) & ~seen).nonzero()[:, 0] + self.now.start(row)
        places = torch.arange(self.now.width, device=device)
        return heads.rows(row, text.to(device), self.now.valid(device)[row], places)

    def _next_heads(self, site: Site, hidden: Tensor, kwargs: Kwargs) -> Heads | None:
        if Signal.NEXT_QUERY_ATTENTION not in self.pruner.needs:
            return None
        layer = self.layers[site.layer]
        with self.trace.selecting(hidden.device, list(range(len(self.layouts)))):
            return dry_run(layer, self.parts.attention(layer), hidden, kwargs)

    def _leave_decoder(self, _: nn.Module, args: Any, output: Any) -> None:
        """After every prefill: text all there, caches and counts as planned."""
        if not self.prefilling:
            return
        self.prefilling = False
        self.cache = _checked(getattr(output, "past_key_values", None))
        for sample in self.trace.samples:
            sample.entering = [len(sample.alive(number)) for number in range(len(self.layers))]
        lengths = [part.get_seq_length() for part in self.cache.layers]
        settled(self.pruner, self.trace.samples, self.visual, self.live, lengths)
        if not self._steers_decoding():
            self.inside.close()

    def _steers_decoding(self) -> bool:
        """Whether a layer needs other arguments than the first while decoding: a mask of its length, or moved positions."""
        uneven = any(stream is not self.live[0] for stream in self.live)
        masked = implementation(self.config) != "sdpa" or any(stream.padded for stream in self.live)
        return (uneven and masked) or any(frame is not None and frame.shift is not None for frame in self.frames)

    # ---- decoding -------------------------------------------------------------------------------------------------

    def _resume_decoder(self, args: Any, kwargs: Kwargs) -> tuple[Any, Kwargs] | None:
        embeds, cache = kwargs["inputs_embeds"], kwargs.get("past_key_values")
        if embeds.shape[1] != 1:
            raise EngineError(
                f"{embeds.shape[1]} tokens at once after prefill: chunked prefill, assisted decoding and further turns on "
                "a pruned cache are not supported"
            )
        if cache is None or cache is not self.cache:
            raise EngineError("decoding goes on from a cache that this session did not fill")
        self.frame_tables: dict[int, Any] = {}
        if self.live[0] is self.whole:
            return None
        changed = dict(kwargs)
        step = cache.get_seq_length() - self.live[0].width
        if self.live[0].padded or implementation(self.config) != "sdpa":
            valid = self.live[0].valid(embeds.device).long()
            changed["attention_mask"] = torch.cat([valid, valid.new_ones(valid.shape[0], step + 1)], dim=1)
        else:
            changed["attention_mask"] = None  # one query sees every key
        last = self.input_last if self.input_last is not None else self.ids_last
        if last is not None:  # by hand a model counts positions from the cache, which is shorter than the prompt now
            changed["position_ids"] = last + 1 + step
        return args, changed

    def _resume_layer(self, number: int, args: Any, kwargs: Kwargs) -> tuple[Any, Kwargs] | None:
        hidden = args[0] if args else kwargs["hidden_states"]
        changed = dict(kwargs)
        stream = self.live[number]
        if stream is not self.live[0]:
            fresh = self.cache.layers[number].get_seq_length() - stream.width + 1
            changed["attention_mask"] = attention_mask(stream, 1, fresh, implementation(self.config), hidden)
        frame = self.frames[number]
        if frame is not None and frame.shift is not None:
            assert self.ids is not None
            if id(frame) not in self.frame_tables:
                self.frame_tables[id(frame)] = self.rotary.forward(hidden, self.ids - frame.shift)
            changed["position_embeddings"] = self.frame_tables[id(frame)]
        return args, changed


@dataclass(frozen=True, eq=False)
class _Frame:
    """What the layers of one stream are given in place of the full sequence's.

    `ids` [.., B, n] position ids, `shift` [.., B, 1] how far they moved at the end of the prompt (None: not at all),
    `tables` the rotary tables of `ids`, `own` the layer's own position_ids argument, `mask` as the kernel takes it.
    """

    ids: Tensor
    shift: Tensor | None
    tables: Any
    own: Tensor | None
    mask: Tensor | None


def _checked(cache: Any) -> Any:
    """The cache, where layers may differ in length; raises EngineError otherwise."""
    if type(cache) is not DynamicCache:
        raise EngineError(f"the cache is {type(cache).__name__}; layers of different length need a DynamicCache")
    return cache


def _rows(values: Tensor, index: Tensor) -> Tensor:
    """Rows `index` [B, n] of cache `values` [B, H, S, d]."""
    return values.gather(2, index[:, None, :, None].expand(-1, values.shape[1], -1, values.shape[3]))
