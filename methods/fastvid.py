"""FastVID (NeurIPS 2025): cut a video into segments, keep the tokens most attended to, and merge
the others into density peaks of a few anchor frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import normalize

from prunebench import (
    BudgetError,
    Choice,
    Clip,
    Reads,
    Signal,
    VideoPruner,
    density_peaks,
    distances,
    exactly,
    means,
    register,
    share,
    top,
    top_of_each,
)

NEIGHBOURS = 4
"""Points whose distances make up a density."""

Segment = tuple[int, int]
"""The first frame, and the one behind the last."""


@register(
    paper="https://arxiv.org/abs/2503.11187",
    code="https://github.com/LunarShen/FastVID",
    variant="meets the budget exactly: what saturated frames and rounding lose goes to the tokens "
    "most attended to (official: lost); densities without noise; frames of the LLaVA-OneVision "
    "form are told apart by their mean tokens or CLS, not by a pooling head",
)
@dataclass(frozen=True)
class FastVID(VideoPruner):
    """A segment ends where neighbouring frames' similarity is below `threshold`, and at the
    `segments` - 1 smallest; it gets tokens by its length.

    The share `context` of these are density peaks, the rest salient: most attended to in the block
    that the projector reads. Of a run of frames alike by `ignore` or more the last alone gets any,
    and context only every `step`-th such frame, from the segment's end. Each of these anchors takes
    up all tokens of the segment that are neither salient nor its own peaks, by cosine: a peak
    becomes w x + (1 - w) mean, w = max(1 / (joined + 1), `beta`).

    `form` "onevision" is the LLaVA-OneVision file: salient tokens in every frame, no `ignore`, and
    a peak takes part in the mean that it is mixed with. `frames` says by what frames are compared:
    "mean" of their tokens, or "cls". `ratio` is the share of a frame's tokens that segments get by
    their frames, where it is not the budget's.
    """

    default_positions = "original"
    segments: int = 8
    threshold: float = 0.9
    ignore: float = 0.95
    context: float = 0.4
    step: int = 4
    beta: float = 0.6
    form: str = "qwen"
    frames: str = "mean"
    ratio: float | None = None

    def __post_init__(self) -> None:
        if self.form not in ("qwen", "onevision"):
            raise ValueError(f"form is {self.form!r}; it is 'qwen' or 'onevision'")
        if self.frames not in ("mean", "cls"):
            raise ValueError(f"frames is {self.frames!r}; it is 'mean' or 'cls'")

    @property
    def reads(self) -> Reads:
        signals = {Signal.RECEIVED_ATTENTION}
        if self.frames == "cls":
            signals.add(Signal.CLS_FEATURES)
        return Reads(frozenset(signals))

    def choose(self, clip: Clip, count: int) -> Choice:
        frames, size = clip.places.shape
        features, received = clip.features, clip.received
        similarity = self.similarity(clip)
        segments = cut(similarity, self.segments, self.threshold)
        lengths = torch.tensor([end - first for first, end in segments])
        salient, context = torch.zeros(2, frames, dtype=torch.int64)
        for (first, end), budget in zip(segments, self.budgets(lengths, size, count), strict=True):
            split = self.split_everywhere if self.form == "onevision" else self.split
            own = slice(first, end)
            salient[own], context[own] = split(similarity[first : end - 1], budget, size)
        rows = torch.arange(frames * size, device=received.device).view(frames, size)
        index = top_of_each(received.flatten(), list(rows), salient.tolist())
        peaks = self.peaks(features, index, context)
        total = int(salient.sum() + context.sum())
        if total > count:
            raise BudgetError(
                f"fastvid.ratio {self.ratio:g} gives {total} tokens where the budget allows "
                f"{count}; leave it out"
            )
        extra = exactly(torch.cat([index, *peaks.values()]), received.flatten(), count)[total:]
        index = torch.cat([index, extra])
        merged = self.merged(features, index, peaks, segments)
        flat = features.flatten(0, 1)
        return Choice(
            torch.cat([index, *peaks.values()]),
            torch.cat([flat[index], *merged]),
            {"keep_salient": index.sort().values, "segment_lengths": lengths},
        )

    def similarity(self, clip: Clip) -> Tensor:
        """[F - 1] the cosine of neighbouring frames, on the CPU."""
        if self.frames == "cls":
            tile = clip.tokens.tile[clip.places[:, 0].cpu()]
            frames = clip.tokens.cls_features.float()[-1][tile.to(clip.places.device)]
        else:
            frames = clip.features.mean(dim=1)
        unit = normalize(frames, dim=-1)
        return (unit[1:] * unit[:-1]).sum(dim=-1).cpu()

    def budgets(self, lengths: Tensor, size: int, count: int) -> list[int]:
        """What each segment gets, by its length."""
        if self.ratio is None:
            return share(count, lengths)
        return (lengths * int(size * self.ratio)).tolist()

    def split(self, similarity: Tensor, budget: int, size: int) -> tuple[Tensor, Tensor]:
        """[L] salient tokens and peaks of every frame of a segment; `similarity` [L - 1]."""
        is_last = torch.ones(len(similarity) + 1, dtype=torch.bool)
        is_last[:-1] = similarity < self.ignore
        pieces = is_last.nonzero()[:, 0]
        anchors = pieces.flip(0)[:: self.step].flip(0)
        context = min(budget, max(int(self.context * budget), 1))
        salient, peaks = torch.zeros(2, len(is_last), dtype=torch.int64)
        parts = share(context, torch.ones(len(anchors)))
        peaks[anchors] = torch.tensor(parts).clamp(max=size // 2)
        parts = share(budget - context, torch.ones(len(pieces)))
        salient[pieces] = torch.minimum(torch.tensor(parts), size - peaks[pieces])
        return salient, peaks

    def split_everywhere(self, similarity: Tensor, budget: int, size: int) -> tuple[Tensor, Tensor]:
        """The same with salient tokens in every frame."""
        length = len(similarity) + 1
        per_frame = budget // length
        context = int(per_frame * self.context)
        salient = torch.full([length], per_frame - context)
        anchors = torch.arange(length).flip(0)[:: self.step]
        peaks = torch.zeros(length, dtype=torch.int64)
        peaks[anchors] = context * length // len(anchors)
        return salient, torch.minimum(peaks, size - salient)

    @staticmethod
    def peaks(features: Tensor, salient: Tensor, counts: Tensor) -> dict[int, Tensor]:
        """By anchor frame the numbers of its peaks among the tokens that are not `salient`."""
        frames, size, _ = features.shape
        is_free = torch.ones(frames * size, dtype=torch.bool, device=features.device)
        is_free[salient] = False
        peaks = {}
        for frame in counts.nonzero()[:, 0].tolist():
            others = is_free[frame * size :][:size].nonzero()[:, 0]
            between = distances(features[frame, others])
            centres = density_peaks(between, int(counts[frame]), NEIGHBOURS)
            peaks[frame] = frame * size + others[centres.sort().values]
        return peaks

    def merged(
        self, features: Tensor, salient: Tensor, peaks: dict[int, Tensor], segments: list[Segment]
    ) -> list[Tensor]:
        """Per anchor [k, D] its peaks with what joined them."""
        size = features.shape[1]
        flat = features.flatten(0, 1)
        unit = normalize(flat, dim=-1)
        is_free = torch.ones_like(flat[:, 0], dtype=torch.bool)
        is_free[salient] = False
        rows = []
        for frame, centres in peaks.items():
            first, end = next(one for one in segments if one[0] <= frame < one[1])
            is_joining = is_free.clone()
            is_joining[: first * size] = False
            is_joining[end * size :] = False
            is_joining[centres] = self.form == "onevision"
            joining = is_joining.nonzero()[:, 0]
            labels = (unit[joining] @ unit[centres].T).argmax(dim=-1)
            counts = torch.bincount(labels, minlength=len(centres))[:, None]
            mean = means(flat[joining], labels, len(centres))
            own = flat[centres]
            weight = (1 / (counts + 1)).clamp(min=self.beta)
            # where nothing joined, weight is 1
            rows.append(weight * own + (1 - weight) * mean)
        return rows


def cut(similarity: Tensor, count: int, threshold: float) -> list[Segment]:
    """The segments of a video, cut at the `count` - 1 smallest of `similarity` [F - 1] and
    wherever that is below `threshold`.
    """
    is_end = similarity < threshold
    is_end[top(-similarity, count - 1)] = True
    ends = (is_end.nonzero()[:, 0] + 1).tolist()
    edges = [0, *ends, len(similarity) + 1]
    return list(pairwise(edges))
