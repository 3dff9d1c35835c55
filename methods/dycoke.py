"""DyCoke (CVPR 2025): of every second frame, and of every second of the others, keep the tokens
least like those of the frame before.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from prunebench import Choice, Clip, VideoPruner, evenly, fill, register, top

GROUP = 4
"""Frames that are thinned together: of each group the first stays whole."""


@register(
    paper="https://arxiv.org/abs/2411.15024",
    code="https://github.com/KD-TAO/DyCoke",
    variant="meets the budget exactly; the last frame of an odd number stays and the last group of "
    "four is thinned, too (official: lost, and not thinned); budgets below a whole frame in four "
    "and images keep of whole frames the tokens that changed most; without the second stage, "
    "which hides cached keys while decoding",
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
    """

    default_positions = "compact"
    work_by_shape = True
    own_share = 0.475
    official: bool = False

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
