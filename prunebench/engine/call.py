"""Call: a batch's visual tokens, located when the whole model is called."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from prunebench.engine.cache import checked
from prunebench.engine.encoder import Observed, Observer, observed_in
from prunebench.engine.hooks import after, before, overheard
from prunebench.engine.stream import EngineError, Stream
from prunebench.engine.wrappers import compiled
from prunebench.models.base import EncoderRows, Family, Originals
from prunebench.tokens import GIVEN, Layout, Signal


@dataclass(frozen=True)
class Call:
    """One prefill's batch: `visual` [B, S] bool on the CPU; a layout, seed and question a row.

    `rows` says where the tokens come from in the vision encoder, `observed` what was read there
    when the images were encoded apart, `pieces` what every position says; all only for methods that
    read it. `given` are the caller's signals, a mapping a row. The last `drafts` positions are no
    prompt but guesses at the answer, which assisted decoding adds. `kept_logits` [n] int64 are the
    positions whose logits the caller asks for, to be changed in place to where they went.

    Raises EngineError where ids and images disagree, as they do when a prompt comes in chunks.
    """

    visual: Tensor
    layouts: Sequence[Layout]
    seeds: Sequence[int]
    questions: Sequence[str | None]
    rows: Sequence[EncoderRows] = ()
    observed: Observed | None = None
    pieces: Sequence[Sequence[str]] = ()
    given: Sequence[Mapping[Signal, Any]] = ()
    drafts: int = 0
    kept_logits: Tensor | None = None
    generated: bool = False
    """Whether `generate` reads it, rather than a call of the model by hand."""
    stream: Stream | None = None
    """What of it is no padding, where that is known already."""

    def __post_init__(self) -> None:
        if len(self.layouts) != len(self.visual):
            raise EngineError(f"{len(self.layouts)} layouts for a batch of {len(self.visual)}")
        for row, layout in enumerate(self.layouts):
            count = int(self.visual[row].sum())
            if count != len(layout):
                raise EngineError(
                    f"sample {row} has {count} visual tokens in this call, its images {len(layout)}: "
                    "a prompt must come whole, with all its images (chunked prefill is not supported)"
                )
            if (
                self.stream is not None
                and int(self.visual[row][self.stream.source[row]].sum()) != count
            ):
                raise EngineError(
                    f"attention_mask hides visual tokens of sample {row}; leave the image out of the prompt"
                )


@dataclass(frozen=True)
class CallerGives:
    """What the caller says of the batch's samples, each None or one a sample; the `processor` made
    the prompt.

    `layouts` are where the samples' tokens lie and `rows` where they come from in the vision
    encoder, for a caller who knows.
    """

    seeds: Sequence[int] | None = None
    questions: Sequence[str] | None = None
    pictures: Sequence[Sequence[Tensor]] | None = None
    masks: Sequence[Sequence[Tensor]] | None = None
    processor: Any = None
    layouts: Sequence[Layout] | None = None
    rows: Sequence[EncoderRows] | None = None

    def missing(self, needs: frozenset[Signal]) -> str | None:
        """Which argument a method cannot do without, of those that only the caller can give."""
        names = {
            Signal.TEXT_PIECES: "processor",
            Signal.PICTURES: "pictures",
            Signal.MASKS: "masks",
        }
        lacking = [
            names[signal]
            for signal in sorted(needs & GIVEN)
            if getattr(self, names[signal]) is None
        ]
        lacking += ["questions"] if Signal.CLIP_TEXT in needs and self.questions is None else []
        return lacking[0] if lacking else None

    def originals(self) -> Originals | None:
        """What the batch was before the processor, as far as the caller says so."""
        shown = self.pictures if self.pictures is not None else self.masks
        if shown is None or self.processor is None:
            return None
        # [F, H, W, 3] of one frame, or [Q, H, W]
        sizes = [
            [(one.shape[2], one.shape[1]) for one in row if len(one) == 1 or one.dim() == 3]
            for row in shown
        ]
        return Originals(sizes, self.processor)


@dataclass
class Generation:
    """One call of `generate`: what it was given, by name, and how often it has read a prompt so
    far.
    """

    inputs: dict[str, Any]
    prefills: int = 0


class Reader:
    """The pre-hook of the whole model: sees the ids, locates the visual tokens, tells prefill from
    decoding.

    `expect` is told of every prompt, `resumed` of every cache that decoding goes on from,
    `answered` of what the model put out, `ended` of every `generate` that is done.
    """

    def __init__(
        self,
        family: Family,
        model: nn.Module,
        told: CallerGives,
        needs: frozenset[Signal],
        expect: Callable[[Call], None],
        resumed: Callable[[Any], None],
        answered: Callable[[Any], None],
        ended: Callable[[], None],
        observer: Observer | None = None,
    ) -> None:
        self.family, self.model, self.told, self.needs = family, model, told, needs
        self.expect, self.resumed, self.answered, self.ended = expect, resumed, answered, ended
        self.observer = observer
        self.call: Generation | None = None
        self._owner: int | None = None
        self._depth = 0

    @contextmanager
    def attached(self, chain: Sequence[nn.Module]) -> Iterator[None]:
        """Listen to the model, the last of the `chain`, and to its wrappers, which may call it past
        its own hooks.
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

    # ---- one caller at a time --------------------------------------------------------------------

    def _take(self) -> None:
        """Note the thread that is at work; raises EngineError where it is not the only one."""
        me = threading.get_ident()
        if self._owner not in (None, me):
            raise EngineError(
                "another thread is running this model inside the same prune(...) block; "
                "a block serves one call at a time: give every thread a model of its own"
            )
        self._owner = me
        self._depth += 1

    def _release(self) -> None:
        if self._owner == threading.get_ident():
            self._depth -= 1
            if self._depth <= 0:
                self._owner, self._depth = None, 0

    # ---- what is heard ---------------------------------------------------------------------------

    def _generate(self, stock: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """`generate` encodes images itself and keeps their grids, and what is prompt and what is
        not, from `forward`.
        """
        self._take()
        try:
            if self.call is not None:
                raise EngineError(
                    "generate called this model's generate again (assistant_early_exit, or assistant_model is "
                    "the model itself): only another model can draft inside prune(...)"
                )
            inputs = dict(zip(("inputs", "generation_config"), args, strict=False)) | kwargs
            self._check_options(inputs)
            ids = (
                inputs.get("input_ids")
                if inputs.get("input_ids") is not None
                else inputs.get("inputs")
            )
            self.call = Generation({**inputs, "input_ids": ids})
            if self.observer is not None:
                self.observer.reset()
            try:
                made = stock(*args, **kwargs)
            finally:
                self.call = None
            self.ended()
            return made
        finally:
            self._release()

    def _check_options(self, inputs: Mapping[str, Any]) -> None:
        """Raise EngineError for ways to generate that no seam serves, before they fail as something
        else.
        """

        def of(name: str) -> Any:
            """An option as `generate` will read it."""
            for source in (
                inputs.get("generation_config"),
                getattr(self.model, "generation_config", None),
            ):
                value = inputs.get(name, getattr(source, name, None))
                if value is not None:
                    return value
            return None

        reasons = {
            "guidance_scale": (
                of("guidance_scale") not in (None, 1, 1.0),
                "asks the model a second time without the image (classifier-free guidance)",
            ),
            "negative_prompt_ids": (
                of("negative_prompt_ids") is not None,
                "asks the model a second time",
            ),
            "prefill_chunk_size": (
                of("prefill_chunk_size") is not None,
                "reads the prompt in parts (chunked prefill)",
            ),
            "custom_generate": (of("custom_generate") is not None, "decodes in a way of its own"),
            "penalty_alpha": (
                bool(of("penalty_alpha")),
                "searches contrastively, with several answers a step",
            ),
            "assistant_early_exit": (
                of("assistant_early_exit") is not None,
                "drafts with the pruned model itself",
            ),
            "use_cache": (of("use_cache") is False, "would prune anew at every step"),
            "inputs_embeds": (
                inputs.get("inputs_embeds") is not None,
                "hides which tokens are visual; pass input_ids",
            ),
        }
        for name, (asked, why) in reasons.items():
            if asked:
                value = of(name)
                shown = "" if isinstance(value, Tensor) or callable(value) else f"={value!r}"
                raise EngineError(
                    f"generate was given {name}{shown}, which {why}: not supported inside prune(...)"
                )

    def _enter(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]] | None:
        self._take()
        if not self._outermost():
            return None
        ids = kwargs.get("input_ids", args[0] if args else None)
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
        cache = kwargs.get("past_key_values")
        if cache is not None and checked(cache).get_seq_length() > 0:
            self.resumed(cache)
            if self.call is None:
                self._check_images(kwargs)
            return None
        drafts = self._drafts(ids)
        kept, changed = _kept_logits(ids, kwargs)
        self.expect(self._prompt(ids, drafts, kwargs, kept))
        return None if changed is kwargs else (args, changed)

    def _leave(self, _args: Any, output: Any) -> None:
        """Behind every call, also one that failed: then there is no output."""
        try:
            if output is not None and self._outermost():
                self.answered(output)
        finally:
            self._release()

    def _outermost(self) -> bool:
        """Whether this is no model inside a wrapper that has been heard already."""
        return self._depth == (1 if self.call is None else 2)

    def _check_images(self, kwargs: Mapping[str, Any]) -> None:
        """Images of a further turn would pass unpruned."""
        for name in (*self.family.vision_inputs, "mm_encoder_outputs"):
            if isinstance(kwargs.get(name), Tensor) or kwargs.get(name):
                raise EngineError(
                    f"{name} came with a cache that already holds a prompt: new images of a further turn are not "
                    "pruned; call the model with the whole conversation and no past_key_values"
                )

    def _drafts(self, ids: Tensor) -> int:
        """How many of the ids are no prompt but guesses at the answer; raises EngineError where ids
        are no whole prompt.
        """
        if self.call is None:
            return 0
        self.call.prefills += 1
        if self.call.prefills > 1:
            raise EngineError(
                "the model was asked anew inside generate, by a logits processor or a stopping criterion: "
                "one generate reads one prompt inside prune(...)"
            )
        prompt = self.call.inputs["input_ids"]
        if not isinstance(prompt, Tensor):
            return 0
        drafts = ids.shape[1] - prompt.shape[1]
        if drafts < 0:
            raise EngineError(
                f"the model was called with {ids.shape[1]} of the {prompt.shape[1]} tokens of its prompt: a prompt "
                "must come whole (chunked prefill and caches of a prefix are not supported)"
            )
        return drafts

    def _prompt(
        self, ids: Tensor, drafts: int, kwargs: Mapping[str, Any], kept: Tensor | None
    ) -> Call:
        """All that is known of the batch whose ids [B, S] the model is called with."""
        rows, told, whole = len(ids), self.told, ids[:, : ids.shape[1] - drafts]
        seeds = told.seeds or [zlib.crc32(row.tobytes()) for row in whole.cpu().numpy()]
        given = self.call.inputs if self.call is not None else {}
        inputs = {**kwargs, "input_ids": whole, **given}
        layouts = told.layouts
        if layouts is None:
            layouts = self.family.layouts(self.model, inputs, told.originals())
        sources: list[EncoderRows] = []
        if self.observer is not None:
            places = told.rows
            if places is None:
                places = self.family.encoder_rows(self.model, inputs, layouts)
            sources = _spread(places, rows)
            if self.call is None:  # called without generate: the encoder has yet to run
                self.observer.reset()
        mask = kwargs.get("attention_mask")
        if mask is not None and not isinstance(mask, Tensor):
            raise EngineError(
                "the attention mask came ready-made for a static cache, which is not supported"
            )
        stream = Stream.of_prompt(rows, ids.shape[1], mask)
        visual = self.family.visual(self.model, ids)
        visual[:, ids.shape[1] - drafts :] = False
        return Call(
            visual,
            _spread(layouts, rows),
            _spread(seeds, rows),
            _spread(told.questions or [None], rows),
            sources,
            observed_in(inputs.get("mm_encoder_outputs")),
            self._pieces(ids),
            _spread(self._given(), rows),
            drafts,
            kept,
            self.call is not None,
            stream,
        )

    def _pieces(self, ids: Tensor) -> list[list[str]]:
        if Signal.TEXT_PIECES not in self.needs:
            return []
        return [
            [self.told.processor.tokenizer.decode([number]) for number in row]
            for row in ids.tolist()
        ]

    def _given(self) -> list[Mapping[Signal, Any]]:
        lists = {Signal.PICTURES: self.told.pictures, Signal.MASKS: self.told.masks}
        asked = {
            signal: values
            for signal, values in lists.items()
            if signal in self.needs and values is not None
        }
        count = len(next(iter(asked.values()))) if asked else 1
        return [
            {signal: tuple(values[row]) for signal, values in asked.items()} for row in range(count)
        ]


def _refuse_batching(name: str, *_args: Any, **_kwargs: Any) -> None:
    raise EngineError(
        f"{name} batches continuously, on a paged cache, which is not supported inside prune(...); call generate"
    )


def _refuse_compiled(_args: Any, _kwargs: Any) -> None:
    raise EngineError(
        "a compiled model runs past the hooks of prune(...); call its generate, or the model inside: model._orig_mod(...)"
    )


def _kept_logits(ids: Tensor, kwargs: dict[str, Any]) -> tuple[Tensor | None, dict[str, Any]]:
    """The positions whose logits are asked for, where these are counted in the prompt, and the
    arguments that name them.

    The model will count in the pruned sequence, so it is given a tensor that the session fills in
    once it knows.
    """
    asked, width = kwargs.get("logits_to_keep", 0), ids.shape[1]
    if isinstance(asked, int) and not isinstance(asked, bool) and asked >= 0:
        if asked <= 1:
            return None, kwargs
        places = torch.arange(max(0, width - asked), width)
    elif isinstance(asked, Tensor) and asked.dim() == 1 and not asked.is_floating_point():
        places = asked.nonzero()[:, 0].cpu() if asked.dtype == torch.bool else asked.cpu()
    else:
        raise EngineError(
            "logits_to_keep must be a number of positions or a tensor [n] of them inside prune(...)"
        )
    if bool(((places < -width) | (places >= width)).any()):
        raise EngineError(f"logits_to_keep names positions outside the prompt, which has {width}")
    kept = (places % width).to(ids.device, torch.int64)
    return kept, {**kwargs, "logits_to_keep": kept}


def _spread(values: Sequence[Any], rows: int) -> list[Any]:
    """One value a row; `generate` repeats every prompt for beams and several sampled answers."""
    if not values or rows % len(values):
        raise EngineError(f"{len(values)} seeds, questions or layouts for a batch of {rows}")
    return [value for value in values for _ in range(rows // len(values))]
