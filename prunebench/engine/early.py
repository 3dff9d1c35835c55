"""Early: what a method does inside the vision encoder, before the decoder is called."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from prunebench.budget import Stage
from prunebench.engine.ask import Question, ask
from prunebench.engine.call import Call
from prunebench.engine.checks import planned
from prunebench.engine.encoder import Key, Observed
from prunebench.engine.finite import Finite
from prunebench.engine.reading import Reading, clip_texts, reading_work
from prunebench.engine.setup import Early, Setup
from prunebench.engine.stream import EngineError, LiveTokens
from prunebench.engine.tower import Candidates, Passenger, Tower
from prunebench.engine.trace import SampleTrace, Trace
from prunebench.engine.views import Offer
from prunebench.signals import Signal
from prunebench.sites import Site
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
        self.trace = Trace(setup.trace.timed, setup.trace.count_flops, tally=setup.ready.tally)
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
            # every answer goes on with a memo of its own
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
        call = self.prompts()
        # an answer starts from the prompt's last position, which therefore survives
        ends = call.visual[:, call.visual.shape[1] - call.drafts - 1]
        passengers = []
        samples = []
        memos: list[dict[str, Any]] = []
        for row, layout in enumerate(call.layouts):
            stages = self._stages(len(layout))
            passenger = Passenger(call.rows[row], stages, pinned=bool(ends[row]))
            passengers.append(passenger)
            samples.append(SampleTrace(layout, len(layout), 0, stages))
            memos.append({})
        self.trace.reset(samples)
        self.finite.forget()
        if self.observer is not None:
            self.observer.ask(self._keys(passengers))
        self._reading = Reading(self.setup, call, Observed(), memos)
        return passengers

    def _stages(self, available: int) -> tuple[Stage, ...]:
        """The plan for a sample of so many visual tokens."""
        setup = self.setup
        return planned(setup.ready, setup.budget, setup.plan, available, setup.depth)

    def _choose(self, candidates: Candidates) -> Keep:
        """The method's answer for one sample at one stage."""
        number = candidates.number
        stage = candidates.stage
        features = candidates.features
        work = reading_work(self.setup.ready, stage.site)
        with self.trace.selecting(features.device, [number], work):
            signals = self._signals(candidates)
        tokens = self.reading.tokens(_offer(candidates), features, signals)
        question = Question(number, stage, tokens, features, candidates.index)
        return ask(self.setup.ready, question, self.trace, self.finite)

    # ---- what is read in the encoder -------------------------------------------------------------

    def _keys(self, passengers: Sequence[Passenger]) -> list[Key]:
        """What is to be read in the encoder for all stages of these samples."""
        sites: set[Site] = set()
        for passenger in passengers:
            # later stages, too: the encoder runs once, and they read what was kept of it
            sites.update(stage.site for stage in passenger.stages)
        keys: set[Key] = set()
        for site in sites:
            for signal, blocks in self.setup.ready.blocks_at(site).items():
                keys.update((signal, block) for block in blocks)
        # as text: where others have a block's number, a CLIP has its name
        return sorted(keys, key=str)

    def _signals(self, candidates: Candidates) -> dict[Signal, Any]:
        """The declared observations of the candidates, but for those that the caller gives."""
        number = candidates.number
        site = candidates.stage.site
        ready = self.setup.ready
        call = self.reading.call
        signals: dict[Signal, Any] = {}
        for signal, blocks in ready.blocks_at(site).items():
            observed = self._observed([(signal, block) for block in blocks])
            tokens = call.rows[number], candidates.index
            signals[signal] = observed.of(signal, blocks, *tokens, ready.queries)
        notes = self.trace.samples[number].notes
        question = call.questions[number]
        index = candidates.index
        signals |= self.reading.by_clip(number, site, index, candidates.features)
        signals |= clip_texts(ready, site, question, candidates.features, notes)
        if Signal.TEXT_PIECES in ready.reads.signals_at(site):
            signals[Signal.TEXT_PIECES] = self._pieces(number)
        return signals

    def _observed(self, keys: Sequence[Key]) -> Observed:
        """What the encoder has shown so far of these."""
        observed = None
        if self.observer is not None:
            observed = self.observer.read(keys)
        if observed is None:
            signal, block = keys[0]
            raise EngineError(f"vision block {block} has run without showing its {signal}")
        return observed

    def _pieces(self, number: int) -> tuple[str, ...]:
        """What the tokens of a prompt's text say, all of them."""
        call = self.reading.call
        if call.stream is None:
            raise EngineError("the prompt's text is not known while its images are encoded")
        positions = call.stream.source[number]
        visual = call.visual[number][positions]
        pieces = call.pieces[number]
        return tuple(pieces[position] for position in positions[~visual].tolist())


def _offer(candidates: Candidates) -> Offer:
    """The candidates as a stage of the decoder would offer them.

    They have no columns of a prompt yet, and no text beside them.
    """
    nowhere = torch.empty(0, dtype=torch.int64)
    no_text = torch.empty(0, dtype=torch.bool)
    live = LiveTokens(nowhere, candidates.index, nowhere, no_text)
    return Offer(candidates.number, candidates.stage, live)
