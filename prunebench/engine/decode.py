"""Decode: how an answer goes on behind a prompt of which tokens were dropped."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from prunebench.engine.cache import held_by
from prunebench.engine.frame import Frame, Kwargs
from prunebench.engine.masks import NOTHING_EXTRA, Extra, attention_mask
from prunebench.engine.prefill import Prefill
from prunebench.engine.setup import Setup
from prunebench.engine.steering import Steering
from prunebench.engine.stream import EngineError, Stream
from prunebench.engine.turns import joined
from prunebench.engine.window import check_window


class Decoding:
    """The steps behind one prefill, which go on from the `cache` that it filled.

    From here on drafts are an answer's tokens like others, and may be taken back.
    """

    def __init__(self, setup: Setup, prefill: Prefill, cache: Any) -> None:
        call = prefill.call
        drafts = call.drafts
        self.setup = setup
        self.cache = cache
        # once a stream, so that `is` goes on telling which layers share one
        # the last row of a bias holds in decoding, in whatever layer
        shortened = {id(stream): stream.last.without(drafts) for stream in prefill.live}
        self.live = [shortened[id(stream)] for stream in prefill.live]
        """What of the prompt is in every layer's part of the cache."""
        self.whole = shortened.get(id(prefill.whole), prefill.whole.without(drafts))
        """The prompt as it came; the first layer's stream where that holds all of it."""
        self.frames = prefill.frames
        self.drops = prefill.drops
        self.sights = prefill.sights
        self.windowed = self.drops and setup.window is not None
        """Whether a layer may come to look back less far than its part of the cache reaches."""
        self.generated = call.generated
        self.end = prefill.positions.answer_start
        """[.., B, 1] the position behind which the answer goes on, where the prefill moved it.

        By hand a model counts positions from the cache, which is shorter than the prompt now.
        """
        self.mapped_logits = call.kept_logits is not None
        self.drafting = drafts > 0
        """Whether any step so far had several tokens, which may be guesses."""
        self.steering: Steering | None = None
        """What of the caches the steps attend to, where the method has its say."""
        if setup.steers is not None and prefill.samples:
            before = self.live[setup.steers.layer - 1]
            memos = prefill.reading.memos
            self.steering = Steering(setup, setup.steers, before, call.visual, memos)
        self.step = 0
        """How many times logits were looked at."""
        self.prompt = call.ids
        """[B, S] the prompt's tokens, drafts behind it among them."""
        self.behind: list[Tensor] = []
        """The tokens that were read behind it, call by call."""
        self.coming: Tensor | None = None
        """Those of the step in flight."""
        self.shifts: dict[Frame, Tensor] = {}
        """How far positions have moved, by frames, which compare by identity."""
        for frame in self.frames:
            if frame is not None and frame.shift is not None:
                self.shifts[frame] = frame.shift
        self.tables: dict[str | None, dict[Frame, Any]] = {}
        """The rotary tables of the step in flight, by the kind of layer and these frames; by None
        where one is made for all layers.
        """
        self._kind: str | None = None

    # ---- what decoding needs ---------------------------------------------------------------------

    @property
    def first(self) -> int:
        """The first layer that keeps keys and values: a model counts what is in the cache there."""
        return self.setup.attending[0]

    @property
    def holders(self) -> list[Stream]:
        """What every layer that keeps keys and values holds of the prompt, in order."""
        return [self.live[number] for number in self.setup.attending]

    @property
    def uneven(self) -> bool:
        """Whether layers hold different positions."""
        return any(stream is not self.holders[0] for stream in self.holders)

    @property
    def steered(self) -> bool:
        """Whether a layer needs other arguments than the first.

        That is a mask of its length or of what is attended to, positions that have moved, or a bias
        on its keys.
        """
        if self.steering is not None:
            return True
        # sdpa takes one query without a mask, whatever a layer's length, unless there is padding
        masked = self.setup.kernel != "sdpa" or any(stream.padded for stream in self.holders)
        biased = any(stream.bias is not None for stream in self.live)
        return (self.uneven and masked) or self.moved or biased or self.windowed

    @property
    def moved(self) -> bool:
        """Whether positions have moved in front of any layer."""
        return bool(self.shifts)

    @property
    def steered_from(self) -> int:
        """The first layer that may need other arguments than the first; the number of layers where
        none does.
        """
        if self.windowed:
            return 0
        depth = self.setup.depth if self.steering is None else self.steering.site.layer
        for number, (stream, frame) in enumerate(zip(self.live, self.frames, strict=True)):
            if (
                frame in self.shifts
                or stream is not self.live[self.first]
                or stream.bias is not None
            ):
                return min(number, depth)
        return depth

    def check_cache(self, cache: Any) -> None:
        """Raise EngineError unless this is the cache that the prefill filled."""
        if cache is None or cache is not self.cache:
            raise foreign_cache(cache)

    def note(self, ids: Tensor) -> None:
        """These tokens [B, n] come next."""
        self.coming = ids

    def known(self) -> Tensor:
        """[B, n] all tokens that were read, of the prompt and behind it, drafts that were taken
        back not among them.
        """
        if self.prompt is None:
            raise EngineError("a decoder that was called with embeddings has no further turns")
        return joined([self.prompt, *self.behind])[:, : self.whole.width + self.answered]

    @property
    def answered(self) -> int:
        """How many tokens were read behind the prompt."""
        length: int = self.cache.layers[self.first].get_seq_length()
        return length - self.live[self.first].width

    def look_at(self, logits: Tensor) -> None:
        """Check the logits of a step; raises NotFinite, here or when the call or the block ends."""
        place, spared = f"the logits of decoding step {self.step}", None
        if not self.step:
            place, count, stream = "the logits of the prefill", logits.shape[1], self.live[-1]
            # logits are those of the last `count` columns, unless the caller has picked positions;
            # padding may hold anything
            if not self.mapped_logits and stream.padded and count <= stream.width:
                spared = ~stream.valid(logits.device)[:, -count:]
        self.step += 1
        # `generate` has an end at which they are judged together
        look = self.setup.finite.note if self.generated else self.setup.finite.look
        look(logits, place, list(range(len(logits))), spared)

    # ---- a step ----------------------------------------------------------------------------------

    def at_decoder(self, embeds: Tensor, kwargs: Kwargs) -> Kwargs:
        """The decoder's arguments for a step of as many tokens as `embeds` [B, n, D] has."""
        cache = kwargs.get("past_key_values")
        self.check_cache(cache)
        count = embeds.shape[1]
        self.drafting = self.drafting or count > 1
        # before anything is counted from the caches' lengths
        if self.drafting:
            self._take_back(kwargs.get("attention_mask"), count)
        first = self.live[self.first]
        step = self.answered
        if self.coming is not None:
            # drafts that were taken back are no longer among those that were read
            self.behind = [self.known()[:, self.whole.width :]] if self.drafting else self.behind
            self.prompt = None if self.prompt is None else self.prompt[:, : self.whole.width]
            self.behind.append(self.coming)
            self.coming = None
        if self.drops:
            # in positions of the unpruned sequence: those are what windows and chunks count
            check_window(self.setup, self.whole.width + step + count)
        self.tables = {}
        if self.steering is not None:
            self.steering.begin_step()
        # where that layer holds the whole prompt, what the model counts from its cache is right
        if first is self.whole:
            return kwargs
        changed = {**kwargs, "attention_mask": None}  # one query sees every key
        if first.padded or self.setup.kernel != "sdpa" or count > 1:
            valid = first.valid(embeds.device).long()
            fresh = valid.new_ones(valid.shape[0], step + count)
            changed["attention_mask"] = torch.cat([valid, fresh], dim=1)
        if self.end is not None:
            ahead = torch.arange(count, device=self.end.device)
            changed["position_ids"] = self.end + 1 + step + ahead
        return changed

    def at_layer(self, number: int, hidden: Tensor, kwargs: Kwargs) -> Kwargs:
        """A layer's arguments for the step in flight."""
        if number in self.setup.ready.stateful:  # its state is all that it reads
            return kwargs
        changed, stream, frame = dict(kwargs), self.live[number], self.frames[number]
        own = stream is not self.live[self.first] or stream.bias is not None
        unseen = None
        if self.steering is not None and number >= self.steering.site.layer:
            unseen = self.steering.unseen(stream, hidden.device)
        if own or self.windowed or unseen is not None:
            extra = NOTHING_EXTRA if unseen is None else Extra(unseen=unseen)
            changed["attention_mask"] = self._mask(number, hidden, extra)
        if frame is not None and frame in self.shifts:
            tables = self.tables.get(self.setup.kinds[number]) or self.tables[None]
            changed["position_embeddings"] = tables[frame]
        return changed

    def _mask(self, number: int, hidden: Tensor, extra: Extra) -> Tensor | None:
        """What a layer's kernel needs to be told in the step in flight, which the layer has yet to
        run: its part of the cache lacks the keys of this step.
        """
        stream, count = self.live[number], hidden.shape[1]
        plain = not (stream.padded or self.windowed or stream.bias is not None)
        if plain and count == 1 and extra is NOTHING_EXTRA:
            return None  # one query sees every key; nearly always, and quickly said
        part = self.cache.layers[number]
        fresh = part.get_seq_length() - stream.width + count
        sight, kernel = self.sights[self.setup.kinds[number]], self.setup.kernel
        mask = attention_mask(stream, count, fresh, kernel, hidden, sight, extra)
        # a layer with a window has let go of the keys behind it
        return None if mask is None else mask[..., -held_by(part, count) :]

    # ---- the tables of a step --------------------------------------------------------------------

    def enter_rotary(self, args: Any, kwargs: Kwargs) -> tuple[Any, Kwargs]:
        """The rotary module's arguments with ids for every frame behind the step's own [.., B, n],
        so that it is asked once for all of them, as if the batch were larger.
        """
        ids = args[1] if len(args) > 1 else kwargs["position_ids"]
        moved = [ids - shift for shift in self.shifts.values()]
        # a step's own may come as one row for all axes
        own = ids.expand(*moved[0].shape[:-2], *ids.shape[-2:])
        together = torch.cat([own, *moved], dim=-2)
        # a module that is asked for every kind of layer is told which
        names = [value for value in (*args, *kwargs.values()) if isinstance(value, str)]
        self._kind = names[0] if names else None
        if len(args) > 1:
            return (args[0], together, *args[2:]), kwargs
        return args, {**kwargs, "position_ids": together}

    def leave_rotary(self, _args: Any, output: Any) -> Any:
        """The step's own rotary tables; those of the frames are kept for the layers behind them."""
        end = _height(output)
        tables: dict[Frame, Any] = {}
        for frame, shift in reversed(self.shifts.items()):
            start = end - shift.shape[-2]
            tables[frame] = _rows_of(output, slice(start, end))
            end = start
        self.tables[self._kind] = tables
        return _rows_of(output, slice(0, end))

    def _take_back(self, mask: Any, count: int) -> None:
        """Cut rejected drafts out of the layers.

        Newer versions of transformers have done so; older ones cut every layer to the prompt's full
        length, which a pruned layer never reaches. `generate` says how far the answer is by `mask`
        [B, prompt and answer], which covers `count` new tokens. Raises EngineError where the layers
        disagree on how far the answer is.
        """
        layers = [self.cache.layers[number] for number in self.setup.attending]
        fresh = []
        for part, stream in zip(layers, self.holders, strict=True):
            fresh.append(part.get_seq_length() - stream.width)
        if self.generated and isinstance(mask, Tensor) and mask.dim() == 2:
            due = mask.shape[1] - self.whole.width - count
            for number, part in enumerate(layers):
                if 0 <= due < fresh[number]:
                    # negative, for older and newer versions alike: so many to remove
                    part.crop(due - fresh[number])
                    fresh[number] = due
        if len({*fresh}) > 1:
            raise EngineError(
                f"the layers' caches hold {min(fresh)} to {max(fresh)} tokens of the answer; they "
                "must agree"
            )


def _height(table: Any) -> int:
    """How many rows of a batch a rotary table [.., B, n, d] has, or its cosines and sines."""
    part = table[0] if isinstance(table, tuple) else table
    return int(part.shape[-3])


def _rows_of(table: Any, rows: slice) -> Any:
    """Some rows of the batch of a rotary table, or of its cosines and sines."""
    if isinstance(table, tuple):
        return tuple(part[..., rows, :, :] for part in table)
    return table[..., rows, :, :]


def foreign_cache(cache: Any) -> EngineError:
    """What is wrong with going on from a cache that no prefill of the session filled."""
    if cache is not None and getattr(cache, "get_seq_length", int)() > 0:
        return EngineError(
            f"past_key_values holds {cache.get_seq_length()} tokens that were read outside this "
            "prune(...) block: give the whole prompt and no past_key_values"
        )
    return EngineError(
        "the decoder was called by itself; call the whole model inside prune(...), not a part or "
        "its forward"
    )
