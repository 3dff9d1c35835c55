"""EarlyTom (CVPR 2026): of frames at the edges of a segment keep the tokens most attended to, of
those between the most attended one of every run.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from prunebench import Choice, Clip, Signal, VideoPruner, exactly, register, top

Segment = tuple[int, int]
"""The first frame, and the one behind the last."""


@register(
    paper="https://arxiv.org/abs/2605.30010",
    code="https://github.com/viridisGreen/EarlyTom",
    variant="the spatial stage alone: no frames are merged inside the encoder, and segments are "
    "cut by the projector's output (official: while merging, by the encoder's); meets the budget "
    "exactly: its ratio is solved for, and what rounding leaves goes to the tokens most attended "
    "to (official: as many as the rounding of each frame comes to)",
)
@dataclass(frozen=True)
class EarlyTom(VideoPruner):
    """Of the first and the last frame of a segment the n r most attended to stay, rounded up; of
    the frames between, which are cut into n r runs in reading order, rounded, the most attended of
    each run.

    Attention is what tokens receive in the block that the projector reads. r is solved for, unless
    `ratio` gives it. A segment ends where the running mean of the cosine to its first frame, place
    by place, falls to `threshold`, and behind `longest` frames; `momentum` is the weight of what
    was before. `lengths` gives segments instead. The values of these three are ours.
    """

    needs = frozenset({Signal.RECEIVED_ATTENTION})
    default_positions = "compact"
    threshold: float = 0.8
    momentum: float = 0.5
    longest: int = 8
    ratio: float | None = None
    lengths: tuple[int, ...] = ()

    def choose(self, clip: Clip, count: int) -> Choice:
        received = clip.received
        frames, size = received.shape
        is_edge = self.edges(clip.features)
        share = self.ratio
        if share is None:
            share = largest_share(int(is_edge.sum()), frames, size, count)
        index = []
        for frame, attention in enumerate(received):
            kept = edge_tokens(attention, share) if is_edge[frame] else run_tokens(attention, share)
            index.append(frame * size + kept)
        return Choice(exactly(torch.cat(index), received.flatten(), count))

    def edges(self, features: Tensor) -> Tensor:
        """[F] bool, on the CPU: whether a frame begins or ends its segment."""
        frames = len(features)
        lengths = self.lengths if sum(self.lengths) == frames else self.cut(features)
        is_edge = torch.zeros(frames, dtype=torch.bool)
        ends = torch.tensor(lengths).cumsum(0) - 1
        is_edge[ends] = True
        is_edge[ends[:-1] + 1] = True
        is_edge[0] = True
        return is_edge

    def cut(self, features: Tensor) -> tuple[int, ...]:
        """The lengths of the segments of a video [F, n, D]."""
        lengths, first, mean = [1], 0, 1.0
        for frame in range(1, len(features)):
            likeness = cosine_similarity(features[frame], features[first], dim=-1).mean()
            mean = self.momentum * mean + (1 - self.momentum) * float(likeness)
            if mean > self.threshold and lengths[-1] < self.longest:
                lengths[-1] += 1
            else:
                lengths.append(1)
                first, mean = frame, 1.0
        return tuple(lengths)


def counts(size: int, share: float) -> tuple[int, int]:
    """How many of a frame's tokens stay at an edge of a segment, and between."""
    whole = int(size * share)
    rounded_up = whole + (size * share > whole)
    return rounded_up, round(size * share)


def edge_tokens(attention: Tensor, share: float) -> Tensor:
    """The places of the tokens most attended to, ascending."""
    number, _ = counts(len(attention), share)
    return top(attention, number).sort().values


def run_tokens(attention: Tensor, share: float) -> Tensor:
    """The place of the most attended token of every run, ascending."""
    _, number = counts(len(attention), share)
    runs = attention.tensor_split(number) if number else ()
    picks, start = [], 0
    for run in runs:
        picks.append(start + run.argmax().view(1))
        start += len(run)
    return torch.cat(picks) if picks else attention.new_zeros(0, dtype=torch.int64)


def largest_share(edges: int, frames: int, size: int, count: int) -> float:
    """The largest r in 0..1 with which frames keep no more than `count` in all."""
    low, high = 0.0, 1.0
    for _ in range(50):  # halvings; a float tells no more apart
        middle = (low + high) / 2
        of_edge, of_middle = counts(size, middle)
        total = edges * of_edge + (frames - edges) * of_middle
        low, high = (middle, high) if total <= count else (low, middle)
    return low
