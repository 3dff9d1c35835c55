"""Early: what a method does inside the vision encoder, before the decoder is called."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from prunebench.engine.ask import Question, ask
from prunebench.engine.call import Call
from prunebench.engine.checks import planned
from prunebench.engine.encoder import Key, Observed, Observer
from prunebench.engine.finite import Finite
from prunebench.engine.reading import Offer, Reading
from prunebench.engine.ready import Blocks
from prunebench.engine.setup import Early, Setup
from prunebench.engine.stream import EngineError, LiveTokens
from prunebench.engine.tower import Candidates, Passenger, Tower
from prunebench.engine.trace import SampleTrace, Trace
from prunebench.pruner import contained
from prunebench.signals import CLIP, Signal
from prunebench.sites import Part, Site


class EarlyStages:
    """The stages of a plan that lie inside the vision encoder, for one batch after the other.

    `prompts` says what is known of the prompts whose images the encoder is about to see. A batch is
    known by its prompts here, for `generate` repeats them for several answers only when their
    images are encoded.
    """

    def __init__(self, setup: Setup, prompts: Callable[[], Call]) -> None:
        self.setup, self.prompts = setup, prompts
        self.observer: Observer | None = setup.observer
        self.trace = Trace(setup.trace.timed, setup.trace.count_flops)
        """What the method took here; the prefill's own trace begins behind the encoder."""
        self.finite = Finite()
        self.tower = Tower(setup.parts, setup.model, self._expect, self._choose, self.observer)
        self.reading: Reading | None = None

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Install the hooks; on leaving, the encoder is as it was."""
        with self.tower.attached():
            yield

    def reset(self) -> None:
        """Forget the batch: another is about to be encoded."""
        self.tower.reset()
        self.reading = None

    def read(self, call: Call) -> list[Early]:
        """What is left of each of the call's samples, one a row; charges the trace with what the
        method took.

        Raises EngineError where the encoder did not run for this call.
        """
        passengers = self.tower.samples
        if not passengers:
            if any(len(layout) for layout in call.layouts):
                raise encoded_before(self.setup.ready.name, self.setup.ready.pruner.site())
            return [Early() for _ in call.layouts]
        self.tower.settle()
        self.finite.settle()
        answers = len(call.layouts) // len(passengers)
        seconds = self.trace.seconds["select"]
        self.setup.trace.charge(seconds, 0)
        self.setup.trace.seconds["observe"] += seconds
        left = []
        for row, sample in enumerate(self.setup.trace.samples):
            number = row // answers
            if sample.selector_flops is not None:
                sample.selector_flops += (self.trace.samples[number].selector_flops or 0) // answers
            sample.notes += self.trace.samples[number].notes
            memo = dict(self.reading.memos[number]) if self.reading is not None else {}
            left.append(Early(passengers[number].kept, memo))
        self.reset()
        return left

    # ---- what the tower asks ---------------------------------------------------------------------

    def _expect(self) -> list[Passenger]:
        """The batch's samples, with their stages planned."""
        setup, call = self.setup, self.prompts()
        last = call.visual.shape[1] - call.drafts - 1
        passengers, samples = [], []
        for row, layout in enumerate(call.layouts):
            stages = planned(setup.ready, setup.budget, setup.plan, len(layout), setup.depth)
            pinned = bool(call.visual[row, last])
            passengers.append(Passenger(call.rows[row], stages, pinned))
            samples.append(SampleTrace(layout, len(layout), 0, stages))
        self.trace.reset(samples)
        self.finite.forget()
        if self.observer is not None:
            self.observer.ask(self._keys(passengers))
        memos: list[dict[str, Any]] = [{} for _ in passengers]
        self.reading = Reading(setup, call, Observed(), memos)
        return passengers

    def _choose(self, candidates: Candidates) -> tuple[Tensor, Tensor | None]:
        """The method's answer for one sample at one stage."""
        assert self.reading is not None
        number, stage = candidates.number, candidates.stage
        features, device = candidates.features, candidates.features.device
        with self.trace.selecting(device, [number]):
            signals = self._signals(candidates)
        index = candidates.index
        # the encoder has no columns of the prompt, and no text
        live = LiveTokens(index, index, index, torch.empty(0, dtype=torch.bool))
        offer = Offer(number, stage, live)
        tokens = self.reading.tokens(offer, features, signals)
        question = Question(number, stage, tokens, features, index)
        return ask(self.setup.ready, question, self.trace, self.finite)

    # ---- what is read in the encoder -------------------------------------------------------------

    def _keys(self, passengers: Sequence[Passenger]) -> list[Key]:
        """What is to be read in the encoder for all stages of these samples."""
        keys: dict[Key, None] = {}
        for passenger in passengers:
            for stage in passenger.stages:
                for signal, blocks in self._reads(stage.site).items():
                    keys.update({(signal, block): None for block in blocks})
        return list(keys)

    def _reads(self, site: Site) -> dict[Signal, Blocks]:
        """The signals of the encoder that exist at a site, with the blocks they are read in.

        Inside the encoder these are the blocks that have run; a method that names none means the
        one before the site.
        """
        ready = self.setup.ready
        if site.part is not Part.VISION:
            return dict(ready.reads)
        reads = {}
        for signal, blocks in ready.reads.items():
            if signal in CLIP:
                reads[signal] = blocks
                continue
            with contained(ready.name, "blocks"):
                named = bool(ready.pruner.blocks(signal))
            places = blocks if named else (site.layer - 1,)
            if all(int(place) < site.layer for place in places):
                reads[signal] = places
        return reads

    def _signals(self, candidates: Candidates) -> dict[Signal, Any]:
        """What the method is shown of the encoder at a stage."""
        assert self.reading is not None
        rows = self.reading.call.rows[candidates.number]
        signals = {}
        for signal, blocks in self._reads(candidates.stage.site).items():
            assert self.observer is not None
            observed = self.observer.read([(signal, block) for block in blocks])
            assert observed is not None
            signals[signal] = observed.of(signal, blocks, rows, candidates.index)
        return signals


def encoded_before(name: str, site: Site) -> EngineError:
    """Why a method cannot work on images that were encoded before the model was called."""
    return EngineError(
        f"{name} prunes at {site}, inside the vision encoder, which ran before prune(...): "
        "give the images as they are, not their encodings"
    )
