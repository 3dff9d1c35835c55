"""DyCoke (CVPR 2025): of every second frame, and of every second of the others, keep the tokens
least like those of the frame before.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from prunebench import (
    Choice,
    Clip,
    DecodingStep,
    Facts,
    Keep,
    Site,
    Stage,
    VideoPruner,
    VisualTokens,
    evenly,
    fill,
    llm,
    register,
    top,
)

PAID = "dycoke.paid"
"""What the step before paid, in the memo."""

GROUP = 4
"""Frames that are thinned together: of each group the first stays whole."""


@register(
    paper="https://arxiv.org/abs/2411.15024",
    code="https://github.com/KD-TAO/DyCoke",
    variant="meets the budget exactly; the last frame of an odd number stays and the last group of "
    "four is thinned, too (official: lost, and not thinned); budgets below a whole frame in four "
    "and images keep of whole frames the tokens that changed most",
)
@dataclass(frozen=True)
class DyCoke(VideoPruner):
    """Of frames 1, 3, 5... keep the tokens of smallest cosine to the same place one frame before,
    of frames 2, 6, 10... to that two frames before; of frames 0, 4, 8... all.

    The thinned frames share evenly what whole ones leave: the paper's pruning rate p = 0.7 is
    a budget of 0.475. Where that is nothing, whole frames share the budget, each less those
    tokens that are most like the whole frame before; the first keeps tokens spread evenly.
    `official` loses the last frame of an odd number and leaves frame 2 of the last group whole, as
    the code does.

    `order` "given" hands the rows over as the code does, frame by frame, those that changed
    most first; "raster" in reading order.

    While an answer is written, layers from `layer` on attend to the visual tokens that the new
    token pays most in the layer before, all heads together, and `hidden` of them are hidden. They
    are chosen where that attention has changed: its cosine to the step before is below `likeness`,
    or there is none before. In a step that is like the one before nothing is hidden, and nothing is
    ever freed. `hidden` 0 leaves decoding alone.
    """

    default_positions = "compact"
    work_by_shape = True
    own_share = 0.475
    official: bool = False
    order: Literal["given", "raster"] = "given"
    layer: int = 3
    hidden: float = 0.8
    likeness: float = 0.9

    def __post_init__(self) -> None:
        if not 0 <= self.hidden < 1:
            raise ValueError(f"hidden is {self.hidden:g}; it is a share, at least 0 and below 1")
        if self.layer < 1:
            raise ValueError(f"layer is {self.layer}; the layer before it is read, so from 1 on")

    def prepared(self, facts: Facts) -> Self:
        """Layers that attend, where not all do."""
        before = facts.attending_near(self.layer - 1, last=facts.layers - 2)
        return replace(self, layer=before + 1)

    def decodes_at(self) -> Site | None:
        return llm(before=self.layer) if self.hidden else None

    def decode(self, step: DecodingStep) -> Tensor | None:
        """The tokens that the new one pays most, where that has changed; else all."""
        paid = step.attention.float().mean(dim=0)
        likeness = self.alike(step, paid)
        step.memo[PAID] = paid
        if likeness >= self.likeness:
            return None
        return top(paid, int(len(step) * (1 - self.hidden)))

    @staticmethod
    def alike(step: DecodingStep, paid: Tensor) -> float:
        """The cosine of what a step pays [N] to what the step before paid; 0 for the first."""
        before = step.memo.get(PAID)
        if before is None or step.number == 0:
            return 0.0
        return float(cosine_similarity(paid, before, dim=0))

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        return replace(super().prune(tokens, stage), order=self.order)

    def choose(self, clip: Clip, count: int) -> Choice:
        frames, size = clip.places.shape
        before = self.references(frames)
        is_whole = before < 0
        room = torch.where(is_whole, size, 0)
        if self.official and frames % 2:
            # a room of 0 in both: the frame is lost
            room[-1] = 0
        left = count - int(room.sum())
        if left >= 0:
            counts = room + torch.tensor(fill(left, (~is_whole).double(), size - room))
            return Choice(self.picked(clip.features, before, counts))
        wholes = is_whole.nonzero()[:, 0]
        before[wholes[1:]] = wholes[:-1]
        counts = torch.zeros_like(room)
        counts[wholes] = torch.tensor(fill(count, torch.ones(len(wholes)), room[wholes]))
        return Choice(self.picked(clip.features, before, counts))

    def references(self, frames: int) -> Tensor:
        """[F] the frame that each is compared with, -1 for those that stay whole; on the CPU."""
        number = torch.arange(frames)
        before = torch.where(number % 2 == 1, number - 1, -1)
        is_middle = number % GROUP == 2
        if self.official:
            is_middle &= number < frames - 2
        return torch.where(is_middle, number - 2, before)

    @staticmethod
    def picked(features: Tensor, before: Tensor, counts: Tensor) -> Tensor:
        """The numbers of the tokens that stay, frame by frame; `counts` [F] of each."""
        size = features.shape[1]
        likeness = cosine_similarity(features, features[before.clamp(min=0)], dim=-1)
        index = []
        pairs = zip(before.tolist(), counts.tolist(), strict=True)
        for frame, (reference, count) in enumerate(pairs):
            if count == size or reference < 0:
                own = evenly(size, count).to(features.device)
            else:
                own = top(-likeness[frame], count)
            index.append(frame * size + own)
        return torch.cat(index)
