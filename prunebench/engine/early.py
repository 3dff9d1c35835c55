"""Early: what a method does inside the vision encoder, before the decoder is called."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from prunebench.engine.ask import Question, ask
from prunebench.engine.call import Call
from prunebench.engine.checks import planned
from prunebench.engine.encoder import Key, Observed
from prunebench.engine.finite import Finite
from prunebench.engine.reading import Offer, Reading, clip_texts
from prunebench.engine.ready import Blocks
from prunebench.engine.setup import Early, Setup
from prunebench.engine.stream import EngineError, LiveTokens
from prunebench.engine.tower import Candidates, Passenger, Tower
from prunebench.engine.trace import SampleTrace, Trace
from prunebench.signals import CLIP, Signal
from prunebench.sites import Part, Site
from prunebench.tokens import Keep


class EarlyStages:
    """The stages of a plan that lie inside the vision encoder, for one batch after the other.

    `prompts` says what is known of the prompts whose images the encoder is about to see. A batch
    has a sample a prompt here: `generate` repeats prompts for several answers behind the encoder.
    """

    def __init__(self, setup: Setup, prompts: Callable[[], Call]) -> None:
        self.setup = setup
        self.prompts = prompts
        self.observer = setup.observer
        self.tower = Tower(setup.parts, setup.model, self._expect, self._choose, setup.observer)
        self.trace = Trace(setup.trace.timed, setup.trace.count_flops)
        """What the method took here; the prefill's own trace begins behind the encoder."""
        self.finite = Finite()
        self._reading: Reading | None = None

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Install the hooks; on leaving, the encoder is as it was."""
        with self.tower.attached():
            yield

    def reset(self) -> None:
        """Forget the batch: another is about to be encoded."""
        self.tower.reset()
        self._reading = None

    def read(self, call: Call) -> list[Early]:
        """What is left of each of the call's samples, one a row.

        Charges the prefill's trace with what the method took. Raises EngineError where the encoder
        did not run for this call.
        """
        passengers = self.tower.samples
        if not passengers:
            return [self._nothing_left_out(len(layout)) for layout in call.layouts]
        self.tower.settle()
        self.finite.settle()
        answers = len(call.layouts) // len(passengers)
        self._charge(answers)
        left = []
        for row in range(len(call.layouts)):
            number = row // answers
            memo = dict(self.reading.memos[number])
            left.append(Early(passengers[number].kept, memo))
        self.reset()
        return left

    @property
    def reading(self) -> Reading:
        """What may be shown of the batch in the encoder."""
        if self._reading is None:
            raise EngineError("the vision encoder was asked for a batch that it has not seen")
        return self._reading

    def _nothing_left_out(self, tokens: int) -> Early:
        """A sample that the encoder did not see, which is right only where it has no image."""
        if tokens:
            name, site = self.setup.ready.name, self.setup.ready.pruner.site()
            raise EngineError(
                f"{name} prunes at {site}, inside the vision encoder, which ran before prune(...): "
                "give the images as they are, not their encodings"
            )
        return Early()

    def _charge(self, answers: int) -> None:
        """Add to the prefill's trace what the method took, each prompt's to all of its answers."""
        trace = self.setup.trace
        seconds = self.trace.seconds["select"]
        trace.seconds["select"] += seconds
        # all of it lay inside this call's encoder
        trace.seconds["observe"] += seconds
        for row, sample in enumerate(trace.samples):
            early = self.trace.samples[row // answers]
            sample.notes += early.notes
            if sample.selector_flops is not None and early.selector_flops is not None:
                sample.selector_flops += early.selector_flops // answers

    # ---- what the tower asks ---------------------------------------------------------------------

    def _expect(self) -> list[Passenger]:
        """The batch's samples, with their stages planned."""
        setup, call = self.setup, self.prompts()
        last = call.visual.shape[1] - call.drafts - 1
        passengers = []
        samples = []
        for row, layout in enumerate(call.layouts):
            available = len(layout)
            stages = planned(setup.ready, setup.budget, setup.plan, available, setup.depth)
            pinned = bool(call.visual[row, last])
            passengers.append(Passenger(call.rows[row], stages, pinned))
            samples.append(SampleTrace(layout, available, 0, stages))
        self.trace.reset(samples)
        self.finite.forget()
        if self.observer is not None:
            self.observer.ask(self._keys(passengers))
        memos: list[dict[str, Any]] = [{} for _ in passengers]
        self._reading = Reading(setup, call, Observed(), memos)
        return passengers

    def _choose(self, candidates: Candidates) -> Keep:
        """The method's answer for one sample at one stage."""
        number, stage = candidates.number, candidates.stage
        features, index = candidates.features, candidates.index
        with self.trace.selecting(features.device, [number]):
            signals = self._signals(candidates)
        # neither columns of a prompt nor text: there is no prompt yet
        nowhere = torch.empty(0, dtype=torch.int64)
        offer = Offer(number, stage, LiveTokens(nowhere, index, nowhere, nowhere.bool()))
        tokens = self.reading.tokens(offer, features, signals)
        question = Question(number, stage, tokens, features, index)
        return ask(self.setup.ready, question, self.trace, self.finite)

    # ---- what is read in the encoder -------------------------------------------------------------

    def _keys(self, passengers: Sequence[Passenger]) -> list[Key]:
        """What is to be read in the encoder for all stages of these samples."""
        keys: set[Key] = set()
        for passenger in passengers:
            for stage in passenger.stages:
                for signal, blocks in self._reads(stage.site).items():
                    keys |= {(signal, block) for block in blocks}
        return sorted(keys, key=str)

    def _reads(self, site: Site) -> dict[Signal, Blocks]:
        """The signals of the encoder that exist at a site, with the blocks they are read in.

        Inside the encoder these are blocks that have run; where a method names none it means the
        one before the site.
        """
        ready = self.setup.ready
        here = ready.reads.signals_at(site)
        reads = {signal: blocks for signal, blocks in ready.blocks.items() if signal in here}
        if site.part is not Part.VISION:
            return reads
        for signal in reads.keys() - CLIP:
            if not ready.reads.blocks.get(signal):
                reads[signal] = (site.layer - 1,)
            elif max(int(block) for block in reads[signal]) >= site.layer:
                del reads[signal]
        return reads

    def _signals(self, candidates: Candidates) -> dict[Signal, Any]:
        """The declared observations of the candidates, but for those that the caller gives."""
        signals: dict[Signal, Any] = {}
        rows = self.reading.call.rows[candidates.number]
        for signal, blocks in self._reads(candidates.stage.site).items():
            observed = self._observed([(signal, block) for block in blocks])
            signals[signal] = observed.of(signal, blocks, rows, candidates.index)
        here = self.setup.ready.reads.signals_at(candidates.stage.site)
        if Signal.CLIP_TEXT in here:
            question = self.reading.call.questions[candidates.number]
            notes = self.trace.samples[candidates.number].notes
            embeddings = clip_texts(self.setup.ready, question, candidates.features, notes)
            signals[Signal.CLIP_TEXT] = embeddings
        if Signal.TEXT_PIECES in here:
            signals[Signal.TEXT_PIECES] = self._pieces(candidates.number)
        return signals

    def _observed(self, keys: Sequence[Key]) -> Observed:
        """What the encoder has shown so far of these."""
        observed = None if self.observer is None else self.observer.read(keys)
        if observed is None:
            raise EngineError(f"the vision encoder has shown nothing of {keys[0][0]} so far")
        return observed

    def _pieces(self, number: int) -> tuple[str, ...]:
        """What the tokens of a prompt's text say, all of them."""
        call = self.reading.call
        if call.stream is None:
            raise EngineError("the prompt's text is not known while its images are encoded")
        positions = call.stream.source[number]
        text = positions[~call.visual[number][positions]]
        pieces = call.pieces[number]
        return tuple(pieces[position] for position in text.tolist())
