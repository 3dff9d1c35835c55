"""Prompt: a batch's visual tokens, found when the whole model is called."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from prunebench.engine.stream import EngineError
from prunebench.engine.vision import Observed, Observer, found_in
from prunebench.models.base import Adapter, EncoderRows, Originals
from prunebench.tokens import GIVEN, Layout, Signal


@dataclass(frozen=True)
class Prompt:
    """One prefill's batch: `visual` [B, S] bool on the CPU; a layout, seed and question a row.

    `rows` says where the tokens come from in the vision encoder, `observed` what was read there when the images were
    encoded apart, `pieces` what every position says; all only for methods that read it. `given` are the caller's signals,
    a mapping a row.

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

    def __post_init__(self) -> None:
        for row, layout in enumerate(self.layouts):
            found = int(self.visual[row].sum())
            if found != len(layout):
                raise EngineError(
                    f"sample {row} has {found} visual tokens in this call, its images {len(layout)}: "
                    "a prompt must come whole, with all its images (chunked prefill is not supported)"
                )


@dataclass(frozen=True)
class Told:
    """What the caller says of the batch's samples, each None or one a sample; the `processor` made the prompt.

    `layouts` are where the samples' tokens lie, for a caller who knows.
    """

    seeds: Sequence[int] | None = None
    questions: Sequence[str] | None = None
    pictures: Sequence[Sequence[Tensor]] | None = None
    masks: Sequence[Sequence[Tensor]] | None = None
    processor: Any = None
    layouts: Sequence[Layout] | None = None

    def missing(self, needs: frozenset[Signal]) -> str | None:
        """Which argument a method cannot do without, of those that only the caller can give."""
        names = {Signal.TEXT_PIECES: "processor", Signal.PICTURES: "pictures", Signal.MASKS: "masks"}
        lacking = [names[signal] for signal in sorted(needs & GIVEN) if getattr(self, names[signal]) is None]
        lacking += ["questions"] if Signal.CLIP_TEXT in needs and self.questions is None else []
        return lacking[0] if lacking else None

    def originals(self) -> Originals | None:
        """What the batch was before the processor, as far as the caller says so."""
        shown = self.pictures if self.pictures is not None else self.masks
        if shown is None or self.processor is None:
            return None
        # [F, H, W, 3] of one frame, or [Q, H, W]
        sizes = [[(one.shape[2], one.shape[1]) for one in row if len(one) == 1 or one.dim() == 3] for row in shown]
        return Originals(sizes, self.processor)


class Reader:
    """The pre-hook of the whole model: sees the ids, finds the visual tokens, tells prefill from decoding."""

    def __init__(
        self,
        adapter: Adapter,
        told: Told,
        needs: frozenset[Signal],
        expect: Callable[[Prompt], None],
        observer: Observer | None = None,
    ) -> None:
        self.adapter, self.told, self.needs, self.expect, self.observer = adapter, told, needs, expect, observer
        self.given: dict[str, Any] = {}

    @contextmanager
    def overhearing(self, model: Any) -> Iterator[None]:
        """Note what `model.generate` is called with: it encodes images itself and keeps their grids from `forward`."""
        stock, own = model.generate, vars(model).get("generate")

        def generate(*args: Any, **kwargs: Any) -> Any:
            self.given = {"input_ids": args[0], **kwargs} if args else kwargs
            if self.observer is not None:
                self.observer.reset()
            try:
                return stock(*args, **kwargs)
            finally:
                self.given = {}

        model.generate = generate
        try:
            yield
        finally:
            if own is None:
                del model.generate
            else:
                model.generate = own

    def __call__(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        if ids is None:
            raise EngineError("prunebench finds visual tokens in input_ids; call the model with them")
        if kwargs.get("labels") is not None:
            raise EngineError("labels cannot be aligned with a pruned sequence; compute the loss outside")
        if kwargs.get("use_cache") is False:
            raise EngineError("use_cache=False would prune anew at every step; leave the cache on")
        cache = kwargs.get("past_key_values")
        if cache is not None and cache.get_seq_length() > 0:
            return
        rows, told = len(ids), self.told
        seeds = told.seeds or [zlib.crc32(row.tobytes()) for row in ids.cpu().numpy()]
        inputs = {**kwargs, "input_ids": ids, **self.given}
        layouts = told.layouts if told.layouts is not None else self.adapter.layouts(model, inputs, told.originals())
        known: list[EncoderRows] = []
        if self.observer is not None:
            known = _spread(self.adapter.encoder_rows(model, inputs, layouts), rows)
            if not self.given:  # called without generate: the encoder has yet to run
                self.observer.reset()
        self.expect(
            Prompt(
                self.adapter.visual(model, ids),
                _spread(layouts, rows),
                _spread(seeds, rows),
                _spread(told.questions or [None], rows),
                known,
                found_in(kwargs.get("mm_encoder_outputs")),
                self._pieces(ids),
                _spread(self._given(), rows),
            )
        )

    def _pieces(self, ids: Tensor) -> list[list[str]]:
        if Signal.TEXT_PIECES not in self.needs:
            return []
        return [[self.told.processor.tokenizer.decode([number]) for number in row] for row in ids.tolist()]

    def _given(self) -> list[Mapping[Signal, Any]]:
        lists = {Signal.PICTURES: self.told.pictures, Signal.MASKS: self.told.masks}
        asked = {signal: values for signal, values in lists.items() if signal in self.needs and values is not None}
        count = len(next(iter(asked.values()))) if asked else 1
        return [{signal: tuple(values[row]) for signal, values in asked.items()} for row in range(count)]


def _spread(values: Sequence[Any], rows: int) -> list[Any]:
    """One value a row; `generate` repeats every prompt for beams and several sampled answers."""
    if rows % len(values):
        raise EngineError(f"{len(values)} seeds, questions or layouts for a batch of {rows}")
    return [value for value in values for _ in range(rows // len(values))]
