"""Listen: what is heard of the calls of a whole model, so that prompts are told from answers."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from prunebench.engine.cache import checked
from prunebench.engine.call import Call, CallerGives
from prunebench.engine.encoder import observed_in
from prunebench.engine.hooks import after, before, overheard
from prunebench.engine.options import check_further_turn, check_options, prompt_of
from prunebench.engine.setup import Setup
from prunebench.engine.stream import EngineError, Stream
from prunebench.engine.turns import further_turn, is_filled, new_in, said_to_hold
from prunebench.engine.wrappers import compiled
from prunebench.models.base import EncoderRows, Family
from prunebench.signals import Signal


class Audience(Protocol):
    """Who is told of what a listener hears."""

    def expect(self, call: Call) -> None:
        """A prompt is about to be read."""

    def check_resumed(self, cache: Any, ids: Tensor) -> None:
        """An answer or a further turn goes on from that cache with these tokens [B, n]."""

    def read_into(self, cache: Any) -> Tensor:
        """[B, n] all tokens that were read into that cache, those that were dropped among them."""

    def look_at(self, output: Any) -> None:
        """The whole model put that out."""

    def end(self) -> None:
        """A call of `generate` is done."""


@dataclass
class Generation:
    """One call of `generate`: its arguments by name, and how many prompts it has read so far."""

    inputs: dict[str, Any]
    prefills: int = 0


class Turn:
    """Whose turn it is to call the model: one thread's, which may call again from inside."""

    def __init__(self) -> None:
        self.depth = 0
        """How many calls are inside each other at the moment."""
        self._owner: int | None = None

    def take(self) -> None:
        """Note the thread that is at work; raises EngineError where it is not the only one."""
        thread = threading.get_ident()
        if self._owner not in (None, thread):
            raise EngineError(
                "another thread is running this model inside the same prune(...) block; "
                "a block serves one call at a time: give every thread a model of its own"
            )
        self._owner = thread
        self.depth += 1

    def release(self) -> None:
        """A call has ended; harmless for a thread whose turn it was not."""
        if self._owner == threading.get_ident():
            self.depth -= 1
            if self.depth <= 0:
                self._owner, self.depth = None, 0


class Listener:
    """The pre-hook of the whole model: it sees the ids and locates the visual tokens."""

    def __init__(
        self, family: Family, setup: Setup, gives: CallerGives, audience: Audience
    ) -> None:
        self.family, self.setup, self.gives, self.audience = family, setup, gives, audience
        self.generation: Generation | None = None
        self.call: Call | None = None
        """The prompts whose images the encoder is given, as far as they are known."""
        self.turn = Turn()
        self.shadow = ExitStack()
        """What `generate` is told of the cache of a further turn, until it calls the model."""

    @contextmanager
    def attached(self, chain: Sequence[nn.Module]) -> Iterator[None]:
        """Listen to the model, the last of the `chain`, and to its wrappers.

        A wrapper may call the model past the model's own hooks.
        """
        with ExitStack() as undo:
            for module in chain:
                if compiled(module):
                    before(undo, module, _refuse_compiled)
                    continue
                before(undo, module, self._enter)
                after(undo, module, self._leave, always=True)
            undo.enter_context(overheard(chain[-1], "generate", self._generate))
            for name in ("generate_batch", "init_continuous_batching"):
                if hasattr(chain[-1], name):
                    undo.enter_context(overheard(chain[-1], name, partial(_refuse_batching, name)))
            yield

    # ---- generate --------------------------------------------------------------------------------

    def _generate(self, stock: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Listen to `generate`, which encodes images before it calls the model.

        It keeps from `forward` their grids, and what is prompt and what is not.
        """
        self.turn.take()
        try:
            if self.generation is not None:
                raise EngineError(
                    "generate called this model's generate again (assistant_early_exit, or "
                    "assistant_model is the model itself): only another model can draft inside "
                    "prune(...)"
                )
            inputs = dict(zip(("inputs", "generation_config"), args, strict=False)) | kwargs
            check_options(self.setup.model, inputs)
            if is_filled(inputs.get("past_key_values")):
                args, kwargs = (), self._further_turn(inputs)
                inputs = kwargs
            self.generation = Generation({**inputs, "input_ids": prompt_of(inputs)})
            self.setup.forget_encoder()
            self.call = None
            try:
                answer = stock(*args, **kwargs)
            except Exception:
                self.audience.end()  # what it stumbled over, such as NaN, has a better name
                raise
            finally:
                self.shadow.close()
                self.generation = self.call = None
            self.audience.end()
            return answer
        finally:
            self.turn.release()

    def _further_turn(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call of `generate` that goes on from the session's own cache.

        Raises EngineError where they are no further turn of what was read, or bring new images.
        """
        check_further_turn(self.setup.model, inputs)
        cache = inputs["past_key_values"]
        context = self.audience.read_into(cache)
        arguments = further_turn(inputs, context, self.family.vision_inputs)
        if bool(self.family.visual(self.setup.model, new_in(arguments, context)).any()):
            raise EngineError(
                "new images of a further turn are not pruned; call generate with the whole "
                "conversation and no past_key_values"
            )
        self.shadow.enter_context(said_to_hold(cache, context.shape[1]))
        return arguments

    # ---- forward ---------------------------------------------------------------------------------

    def _enter(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]] | None:
        self.turn.take()
        if not self._outermost():
            return None
        ids = _checked_ids(kwargs.get("input_ids", args[0] if args else None), kwargs)
        cache = kwargs.get("past_key_values")
        if cache is not None and checked(cache).get_seq_length() > 0:
            self.shadow.close()
            self.audience.check_resumed(cache, ids)
            if self.generation is None:
                self._check_images(kwargs)
            return None
        drafts = self._drafts(ids)
        kept, changed = _kept_logits(ids, kwargs)
        if self.generation is None:
            self.setup.forget_encoder()  # which has yet to run
        self.call = self._call(ids, drafts, kwargs, kept)
        self.audience.expect(self.call)
        return None if changed is kwargs else (args, changed)

    def _leave(self, _args: Any, output: Any) -> None:
        """Behind every call, also one that failed: then there is no output."""
        try:
            if output is not None and self._outermost():
                self.audience.look_at(output)
        finally:
            self.turn.release()

    def _outermost(self) -> bool:
        """Whether this is no model inside a wrapper that has been heard already."""
        # generate takes a turn of its own around those of the model
        return self.turn.depth == (1 if self.generation is None else 2)

    def _check_images(self, kwargs: Mapping[str, Any]) -> None:
        """Raise EngineError for images of a further turn, which would pass unpruned."""
        for name in (*self.family.vision_inputs, "mm_encoder_outputs"):
            # a tensor of several values has no truth value
            if isinstance(kwargs.get(name), Tensor) or kwargs.get(name):
                raise EngineError(
                    f"{name} came with a cache that already holds a prompt: new images of a "
                    "further turn are not pruned; call the model with the whole conversation "
                    "and no past_key_values"
                )

    def _drafts(self, ids: Tensor) -> int:
        """How many of the ids are no prompt but guesses at the answer.

        Raises EngineError where ids are no whole prompt.
        """
        if self.generation is None:
            return 0
        self.generation.prefills += 1
        if self.generation.prefills > 1:
            raise EngineError(
                "the model was asked anew inside generate, by a logits processor or a stopping "
                "criterion: one generate reads one prompt inside prune(...)"
            )
        prompt = self.generation.inputs["input_ids"]
        if not isinstance(prompt, Tensor):
            return 0
        drafts = ids.shape[1] - prompt.shape[1]
        if drafts < 0:
            raise EngineError(
                f"the model was called with {ids.shape[1]} of the {prompt.shape[1]} tokens of its "
                "prompt: a prompt must come whole (chunked prefill and caches of a prefix are not "
                "supported)"
            )
        return drafts

    # ---- what is known of a prompt ---------------------------------------------------------------

    def prompts(self) -> Call:
        """What is known of the prompts whose images are being encoded.

        `generate` encodes before it calls the model, and then repeats every prompt for as many
        answers as it is asked for. Raises EngineError where it repeats them first.
        """
        if self.generation is None:
            if self.call is None:
                raise EngineError("the vision encoder was called by itself; call the whole model")
            return self.call
        prompts = self.generation.inputs["input_ids"]
        if self.call is None:
            self.call = self._call(prompts, 0, self.generation.inputs, None)
        if len(self.call.layouts) != len(prompts):
            raise EngineError(
                "this version of transformers encodes images once an answer, which cannot be "
                "pruned inside the encoder: ask for one answer a prompt"
            )
        return self.call

    def _call(
        self, ids: Tensor, drafts: int, kwargs: Mapping[str, Any], kept: Tensor | None
    ) -> Call:
        """All that is known of the batch whose ids [B, S] the model is called with."""
        gives, batch, end = self.gives, len(ids), ids.shape[1] - drafts
        whole = ids[:, :end]
        # what generate encoded and keeps from forward is among its own arguments
        arguments = self.generation.inputs if self.generation is not None else {}
        inputs = {**kwargs, "input_ids": whole, **arguments}
        # equal prompts draw alike, in every process
        seeds = gives.seeds or [zlib.crc32(row.tobytes()) for row in whole.cpu().numpy()]
        layouts = gives.layouts
        if layouts is None:
            layouts = self.family.layouts(self.setup.model, inputs, gives.originals())
        rows = self._encoder_rows(inputs, layouts)
        mask = kwargs.get("attention_mask")
        if mask is not None and not isinstance(mask, Tensor):
            raise EngineError(
                "the attention mask came ready-made for a static cache, which is not supported"
            )
        stream = Stream.of_prompt(batch, ids.shape[1], mask)
        visual = self.family.visual(self.setup.model, ids)
        # a guess may be the id of an image token, and is no visual token for that
        visual[:, end:] = False
        return Call(
            ids=ids,
            visual=visual,
            layouts=_a_row(layouts, batch),
            seeds=_a_row(seeds, batch),
            questions=_a_row(gives.questions or [None], batch),
            rows=_a_row(rows, batch) if rows is not None else (),
            observed=observed_in(inputs.get("mm_encoder_outputs")),
            pieces=self._pieces(ids),
            caller_signals=_a_row(gives.signals(self.setup.ready.needs), batch),
            drafts=drafts,
            kept_logits=kept,
            generated=self.generation is not None,
            stream=stream,
            together=self._together(inputs, visual),
        )

    def _together(self, inputs: Mapping[str, Any], visual: Tensor) -> Tensor | None:
        """Which positions see each other in whatever order, for as many rows as `visual` has."""
        rows = visual[:: max(1, len(visual) // len(inputs["input_ids"]))]
        groups = self.family.together(inputs, rows)
        return None if groups is None else torch.stack(_a_row(list(groups), len(visual)))

    def _encoder_rows(
        self, inputs: Mapping[str, Any], layouts: Sequence[Any]
    ) -> Sequence[EncoderRows] | None:
        """Where the tokens come from in the vision encoder; None where nobody needs to know."""
        if self.setup.observer is None and self.setup.tower is None:
            return None
        if self.gives.rows is not None:
            return self.gives.rows
        return self.family.encoder_rows(self.setup.model, inputs, layouts)

    def _pieces(self, ids: Tensor) -> list[list[str]]:
        """What every position of the prompts says, where the method reads that."""
        if Signal.TEXT_PIECES not in self.setup.ready.needs:
            return []
        decode, rows = self.gives.processor.tokenizer.decode, []
        for row in ids.tolist():
            rows.append([decode([number]) for number in row])
        return rows


def _checked_ids(ids: Any, kwargs: Mapping[str, Any]) -> Tensor:
    """The prompt's ids; raises EngineError for a call of the model that no seam serves."""
    if ids is None:
        raise EngineError(
            "prunebench looks for visual tokens in input_ids; call the model with them"
        )
    if kwargs.get("labels") is not None:
        raise EngineError(
            "labels cannot be aligned with a pruned sequence; compute the loss outside"
        )
    if kwargs.get("use_cache") is False:
        raise EngineError("use_cache=False would prune anew at every step; leave the cache on")
    checked_ids: Tensor = ids
    return checked_ids


def _kept_logits(ids: Tensor, kwargs: dict[str, Any]) -> tuple[Tensor | None, dict[str, Any]]:
    """The positions whose logits are asked for, where these are counted in the prompt.

    The model will count in the pruned sequence, so its arguments, which are returned too, name a
    tensor that the session fills in once it knows.
    """
    option, width = kwargs.get("logits_to_keep", 0), ids.shape[1]
    if isinstance(option, int) and not isinstance(option, bool) and option >= 0:
        # 0 asks for all, 1 for the last position, which no stage drops: the model has both right
        if option <= 1:
            return None, kwargs
        places = torch.arange(max(0, width - option), width)
    elif isinstance(option, Tensor) and option.dim() == 1 and not option.is_floating_point():
        places = option.nonzero()[:, 0].cpu() if option.dtype == torch.bool else option.cpu()
    else:
        raise EngineError(
            "logits_to_keep must be a number of positions or a tensor [n] of them inside prune(...)"
        )
    if bool(((places < -width) | (places >= width)).any()):
        raise EngineError(f"logits_to_keep names positions outside the prompt, which has {width}")
    # negative ones count from the end
    kept = (places % width).to(ids.device, torch.int64)
    return kept, {**kwargs, "logits_to_keep": kept}


def _a_row(values: Sequence[Any], rows: int) -> list[Any]:
    """One value a row; `generate` repeats every prompt for beams and several sampled answers."""
    if not values or rows % len(values):
        raise EngineError(f"{len(values)} seeds, questions or layouts for a batch of {rows}")
    repeated = []
    for value in values:
        repeated += [value] * (rows // len(values))
    return repeated


def _refuse_batching(name: str, *_args: Any, **_kwargs: Any) -> None:
    raise EngineError(
        f"{name} batches continuously, on a paged cache, which is not supported inside prune(...); "
        "call generate"
    )


def _refuse_compiled(_args: Any, _kwargs: Any) -> None:
    raise EngineError(
        "a compiled model runs past the hooks of prune(...); call its generate, or the model "
        "inside: model._orig_mod(...)"
    )
