"""FlashVID (ICLR 2026): select tokens that are attended to and unlike each other, chain the others
over time and cluster what is left; then prune once more inside the language model.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from prunebench import (
    INPUT,
    Budget,
    Choice,
    Clip,
    Keep,
    Reads,
    Signal,
    Stage,
    VideoPruner,
    VisualTokens,
    density_peaks,
    distances,
    joined,
    llm_at,
    means,
    register,
    share,
    solve,
    staged,
    top,
)

NEIGHBOURS = 7
"""Points whose distances make up a density."""

Segment = tuple[int, int]
"""The first frame, and the one behind the last."""


@register(
    paper="https://arxiv.org/abs/2602.08024",
    code="https://github.com/Fanziyang-v/FlashVID",
    variant="meets the budget exactly: frames share it evenly, and clusters of a segment what its "
    "selected tokens leave (official: both rounded up); no token is selected twice or clustered "
    "beside that (official: possible); densities without noise",
)
@dataclass(frozen=True)
class FlashVID(VideoPruner):
    """A segment ends where the cosine of neighbouring frames' mean tokens is below `threshold`, and
    at the smallest, so that there are `segments`. Of a frame's budget the share `selected` are
    picked: D_ij = (1 - cos) times what j receives in the block that the projector reads and, with
    `events`, times the mean product of x_j and the mean tokens of its segment's frames; first the j
    whose nearest other is farthest, argmax of the second smallest D_ij, then argmax of the smallest
    over those picked.

    Each other token joins the most alike of the frame before, where their cosine is above
    `alike`; no more join than the budget asks for, the most alike first. A chain becomes its sum by
    1 + the tokens that join its first one, which stands for it: as in the code, more than the mean
    where chains are longer. What is left of a segment's frames is clustered around density peaks.

    Before layer `layer` (a number, or a share of the depth: 20 of 28) the share `kept` stays, by
    the attention of the last prompt token in the layer before. Without `inside` that is left out.
    """

    segments: int = 8
    threshold: float = 0.9
    selected: float = 0.7
    events: bool = True
    alike: float = 0.8
    inside: bool = True
    layer: int | float = 20 / 28
    kept: float = 0.3

    @property
    def reads(self) -> Reads:
        signals = {Signal.RECEIVED_ATTENTION}
        if self.inside:
            signals.add(Signal.LAST_QUERY_ATTENTION)
        return Reads(frozenset(signals), places={Signal.RECEIVED_ATTENTION: frozenset({INPUT})})

    def plan(self, budget: Budget | None, available: int, layers: int) -> tuple[Stage, ...]:
        if budget is None or not self.inside:
            return super().plan(budget, available, layers)
        sites = [INPUT, llm_at(self.layer, layers)]
        return solve(budget, sites, available, layers, staged(self.kept))

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        if stage.site == INPUT:
            return super().prune(tokens, stage)
        return Keep(top(tokens.last_query_attention.float().mean(dim=0), stage.keep))

    def explain(self, tokens: VisualTokens, stage: Stage) -> dict[str, Tensor]:
        if stage.site == INPUT:
            return super().explain(tokens, stage)
        return {"scores": tokens.last_query_attention.float().mean(dim=0)}

    def choose(self, clip: Clip, count: int) -> Choice:
        features = clip.features
        frames, size, _ = features.shape
        segments = cut(features, self.segments, self.threshold)
        budgets = torch.tensor(share(count, torch.ones(frames)))
        picked = (budgets * self.selected).ceil().long()
        is_picked = self.picks(features, clip.received, segments, picked)
        numbers = torch.arange(frames * size, device=features.device).view(frames, size)
        index, rows = [numbers[is_picked]], [features[is_picked]]
        for first, end in segments:
            own = slice(first, end)
            due = int((budgets - picked)[own].sum())
            is_left, points = self.chained(features[own], ~is_picked[own], due)
            counts = share(due, is_left.sum(dim=1)) if due else []
            for frame, number in enumerate(counts):
                places = is_left[frame].nonzero()[:, 0]
                centres, merged = clustered(points[frame, places], number)
                index.append(numbers[first + frame, places[centres]])
                rows.append(merged)
        lengths = torch.tensor([end - first for first, end in segments])
        values = {"keep_selected": index[0], "segment_lengths": lengths}
        return Choice(torch.cat(index), torch.cat(rows), values)

    def picks(
        self, features: Tensor, received: Tensor, segments: list[Segment], counts: Tensor
    ) -> Tensor:
        """[F, n] bool: the tokens of every frame that are picked, as many as its count."""
        unit = normalize(features, dim=-1)
        weights = received * self.relevance(features, segments) if self.events else received
        between = (1 - unit @ unit.mT) * weights[:, None]  # [F, n, n]
        is_picked = torch.zeros_like(received, dtype=torch.bool)
        frame = torch.arange(len(features), device=features.device)
        counts = counts.to(features.device)
        nearest = between.topk(min(2, between.shape[1]), dim=1, largest=False).values[:, -1]
        closest = torch.full_like(received, torch.inf)
        for number in range(int(counts.max())):
            pick = nearest.masked_fill(is_picked, -torch.inf).argmax(dim=1)
            is_picked[frame, pick] |= number < counts
            closest = torch.minimum(closest, between[frame, pick])
            nearest = closest
        return is_picked

    @staticmethod
    def relevance(features: Tensor, segments: list[Segment]) -> Tensor:
        """[F, n] the mean product of a token and the mean tokens of its segment's frames."""
        of_frames = features.mean(dim=1)
        parts = [features[a:b] @ of_frames[a:b].mean(dim=0) for a, b in segments]
        return torch.cat(parts)

    def chained(self, features: Tensor, is_free: Tensor, due: int) -> tuple[Tensor, Tensor]:
        """Of a segment [L, n, D], [L, n] bool what is left of its free tokens once chains are
        merged, at least `due`, and [L, n, D] what these are.
        """
        unit = normalize(features, dim=-1)
        cosine = unit[1:] @ unit[:-1].mT  # to the frame before
        cosine = cosine.masked_fill(~is_free[:-1, None], -torch.inf)
        likeness, target = cosine.max(dim=-1)
        likeness = likeness.masked_fill(~is_free[1:], -torch.inf)
        order = likeness.flatten().argsort(descending=True, stable=True)
        joins = torch.zeros_like(order, dtype=torch.bool)
        joins[order[: int(is_free.sum()) - due]] = True
        joins = joins.view_as(likeness) & (likeness > self.alike)
        sums, counts = features.clone(), torch.ones_like(features[..., :1])
        for frame in range(len(features) - 1, 0, -1):
            link = one_hot(target[frame - 1], features.shape[1]) * joins[frame - 1][:, None]
            members = link.T.float()
            sums[frame - 1] += members @ sums[frame]
            # as the code counts: tokens that join directly, whatever joined them before
            counts[frame - 1] += members.sum(dim=1, keepdim=True)
        is_left = is_free.clone()
        is_left[1:] &= ~joins
        return is_left, sums / counts


def clustered(points: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """[count] centres among the points [n, D], ascending, and [count, D] the means of what joins
    them.
    """
    if count == 0:
        return torch.arange(0, device=points.device), points[:0]
    between = distances(points)
    centres = density_peaks(between, count, NEIGHBOURS).sort().values
    return centres, means(points, joined(between, centres), count)


def cut(features: Tensor, count: int, threshold: float) -> list[Segment]:
    """The segments of a video of `features` [F, n, D]."""
    unit = normalize(features.mean(dim=1), dim=-1)
    similarity = (unit[1:] * unit[:-1]).sum(dim=-1).cpu()
    is_end = similarity < threshold
    is_end[top(-similarity, count - 1)] = True
    ends = (is_end.nonzero()[:, 0] + 1).tolist()
    return list(pairwise([0, *ends, len(features)]))
