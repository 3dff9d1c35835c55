"""Call: one batch as it is known when the whole model is called, and what the caller adds to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from prunebench.engine.encoder import Observed
from prunebench.engine.stream import EngineError, Stream
from prunebench.models.base import EncoderRows, Originals
from prunebench.signals import GIVEN, Signal
from prunebench.tokens import Layout


@dataclass(frozen=True)
class Call:
    """One prefill's batch, as it is known before the model has run.

    `visual` [B, S] bool, on the CPU, marks the visual positions; there is a layout, a seed and a
    question a row. Only for methods that read them: `rows` say where the tokens come from in the
    vision encoder, `observed` is what was read there when the images were encoded apart, `pieces`
    are what every position says, `caller_signals` what the caller gives, a mapping a row.

    The last `drafts` positions are no prompt but guesses at the answer, which assisted decoding
    adds. `kept_logits` [n] int64 are the positions whose logits the caller asks for, to be changed
    in place to where they went. `together` [B, S] are the numbers of groups of positions that see
    each other in whatever order, -1 for those in none. `generated` says that `generate` reads it,
    rather than a call of the model by hand; `ids` [B, S] are the tokens; `stream` is what of it is
    no padding, where that is known already.

    Raises EngineError where ids and images disagree, as they do when a prompt comes in chunks.
    """

    visual: Tensor
    layouts: Sequence[Layout]
    seeds: Sequence[int]
    questions: Sequence[str | None]
    rows: Sequence[EncoderRows] = ()
    observed: Observed | None = None
    pieces: Sequence[Sequence[str]] = ()
    caller_signals: Sequence[Mapping[Signal, Any]] = ()
    drafts: int = 0
    kept_logits: Tensor | None = None
    generated: bool = False
    stream: Stream | None = None
    together: Tensor | None = None
    ids: Tensor | None = None

    def __post_init__(self) -> None:
        if len(self.layouts) != len(self.visual):
            raise EngineError(f"{len(self.layouts)} layouts for a batch of {len(self.visual)}")
        for row, layout in enumerate(self.layouts):
            self._check_sample(row, len(layout))

    def _check_sample(self, row: int, expected: int) -> None:
        """Raise EngineError where a sample has not all of its images' visual tokens."""
        marks = self.visual[row]
        count = int(marks.sum())
        if count != expected:
            raise EngineError(
                f"sample {row} has {count} visual tokens in this call, its images {expected}: a "
                "prompt must come whole, with all its images (chunked prefill is not supported)"
            )
        if self.stream is not None and int(marks[self.stream.source[row]].sum()) != count:
            raise EngineError(
                f"attention_mask hides visual tokens of sample {row}; leave the image out of the "
                "prompt"
            )


@dataclass(frozen=True)
class CallerGives:
    """What the caller of `prune` says of the batch, each None or a value a sample.

    The `processor` made the prompt. `layouts` are where the samples' tokens lie and `rows` where
    they come from in the vision encoder, for a caller who knows.
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
        for signals in (needs & GIVEN, needs - GIVEN):
            for signal in sorted(signals):
                argument = signal.row.argument
                if argument and getattr(self, argument) is None:
                    return argument
        return None

    def signals(self, needs: frozenset[Signal]) -> list[Mapping[Signal, Any]]:
        """What a method is shown as the caller gave it, a mapping a sample."""
        rows: list[dict[Signal, Any]] = []
        for signal in (Signal.PICTURES, Signal.MASKS):
            values = getattr(self, signal.row.argument)
            if signal not in needs or values is None:
                continue
            rows = rows or [{} for _ in values]
            if len(rows) != len(values):
                raise EngineError(f"{len(values)} {signal} for {len(rows)} samples")
            for row, value in zip(rows, values, strict=True):
                row[signal] = tuple(value)
        return [*rows] or [{}]

    def originals(self) -> Originals | None:
        """What the batch was before the processor, as far as the caller says so."""
        if self.processor is None:
            return None
        if self.pictures is not None:
            # a picture of several frames is a video
            sizes = [_sizes(row, frames=1) for row in self.pictures]
        elif self.masks is not None:
            sizes = [_sizes(row) for row in self.masks]
        else:
            return None
        return Originals(sizes, self.processor)


def _sizes(images: Sequence[Tensor], frames: int | None = None) -> list[tuple[int, int]]:
    """Width and height of pictures [F, H, W, 3] of so many frames, or of masks [Q, H, W]."""
    sizes = []
    for image in images:
        if frames is None or len(image) == frames:
            sizes.append((image.shape[2], image.shape[1]))
    return sizes
