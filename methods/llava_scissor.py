"""LLaVA-Scissor (2025): merge the connected components of a graph of alike tokens, in every frame
and then over the video.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from prunebench import (
    Budget,
    Choice,
    Clip,
    Keep,
    Stage,
    VideoPruner,
    VisualTokens,
    gram,
    means,
    register,
    top,
)


@register(
    paper="https://arxiv.org/abs/2506.21862",
    code="https://github.com/HumanMLLM/LLaVA-Scissor",
    variant="meets the budget exactly: the threshold is solved for on every sample, and tokens "
    "least like any component fill what is left (official: a fixed threshold, and as many "
    "components as there are); components are exact (official: of a random sample of the nodes "
    "where there are more than about 3,200)",
)
@dataclass(frozen=True)
class LLaVAScissor(VideoPruner):
    """Tokens whose cosine is above a threshold are neighbours; the connected components of each
    frame become their means, and the components of these means, over all frames, theirs.

    Every token of the video then joins the mean that it is most alike: (mean + sum) / (joined + 1).
    A row stands at its component's member with most neighbours, the first of equals.

    The threshold is the largest with no more components than the budget allows, found by halving.
    `threshold` fixes it, at 0.9 in the paper: then as many rows remain as there are components, as
    long as the budget allows them.

    `order` "given" hands the rows over as the code does, by the places of the frames'
    components; "raster" in reading order.
    """

    default_positions = "compact"
    threshold: float | None = None
    order: Literal["given", "raster"] = "given"

    @property
    def dynamic(self) -> bool:  # type: ignore[override]  # a constant of other methods
        return self.threshold is not None

    def plan(self, budget: Budget | None, available: int, layers: int) -> tuple[Stage, ...]:
        """Without a budget as many tokens as there are components at `threshold`."""
        if budget is None and self.threshold is not None:
            return (Stage(self.site(), available),)
        return super().plan(budget, available, layers)

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        return replace(super().prune(tokens, stage), order=self.order)

    def choose(self, clip: Clip, count: int) -> Choice:
        features = clip.features
        unit = normalize(features, dim=-1)
        likeness = torch.stack([gram(frame) for frame in unit])  # [F, n, n]
        places, rows, in_frames = self.components(features, likeness, count)
        flat = features.flatten(0, 1)
        closeness = unit.flatten(0, 1) @ normalize(rows, dim=-1).T
        extra = flat[:0], places[:0]
        is_joining = torch.ones_like(closeness[:, 0], dtype=torch.bool)
        if not self.dynamic:
            strangeness = -closeness.amax(dim=-1)
            strangeness[places] = -torch.inf
            alone = top(strangeness, count - len(places))
            is_joining[alone] = False
            extra = flat[alone], alone
        labels = closeness[is_joining].argmax(dim=-1)
        joined = torch.bincount(labels, minlength=len(rows))[:, None]
        sums = joined * means(flat[is_joining], labels, len(rows))
        merged = (rows + sums) / (joined + 1)
        values = {"component_counts": torch.tensor([in_frames, len(rows)])}
        index = torch.cat([places, extra[1]])
        return Choice(index, torch.cat([merged, extra[0]]), values)

    def components(
        self, features: Tensor, likeness: Tensor, count: int
    ) -> tuple[Tensor, Tensor, int]:
        """[K] places and [K, D] means of the video's components, no more than `count`; and how many
        there are in all frames.
        """
        if self.threshold is not None:
            answer = merged_twice(features, likeness, self.threshold)
            if len(answer[0]) <= count:
                return answer
        # at -2 all is one component
        low, high = -2.0, 1.0
        best = merged_twice(features, likeness, low)
        for _ in range(24):  # halvings; float32 tells no more cosines apart
            if len(best[0]) == count:
                break
            middle = (low + high) / 2
            answer = merged_twice(features, likeness, middle)
            if len(answer[0]) <= count:
                low, best = middle, answer
            else:
                high = middle
        return best


def merged_twice(
    features: Tensor, likeness: Tensor, threshold: float
) -> tuple[Tensor, Tensor, int]:
    """The components of every frame, and of these over the video: places, means, and how many the
    frames have.
    """
    size = features.shape[1]
    places, points = [], []
    for frame, labels in enumerate(labelled(likeness > threshold)):
        centres, numbers = heads(likeness[frame] > threshold, labels)
        places.append(frame * size + centres)
        points.append(means(features[frame], numbers, len(centres)))
    of_frames, rows = torch.cat(places), torch.cat(points)
    unit = normalize(rows, dim=-1)
    is_near = gram(unit) > threshold
    centres, numbers = heads(is_near, labelled(is_near[None])[0])
    return of_frames[centres], means(rows, numbers, len(centres)), len(rows)


def labelled(is_near: Tensor) -> Tensor:
    """[B, n] by node the first node of its component, in graphs of neighbours [B, n, n]."""
    size = is_near.shape[-1]
    # in 32 bits, which take half the time
    labels = torch.arange(size, device=is_near.device, dtype=torch.int32)
    labels = labels.expand(len(is_near), size)
    while True:
        nearest = torch.where(is_near, labels[:, None], size).amin(dim=-1)
        nearest = torch.minimum(labels, nearest)
        # a label's own label is in the same component, too: long chains take few rounds
        nearest = nearest.gather(1, nearest.long())
        if torch.equal(nearest, labels):
            return labels.long()
        labels = nearest


def heads(is_near: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """[K] the nodes that stand for the components, ascending: those with most neighbours, the first
    of equals; and [n] the number of each node's component among these.
    """
    degree = is_near.sum(dim=-1)
    kinds, numbers = labels.unique(return_inverse=True)
    # by degree, and stable: the first of a component is its head
    order = degree.argsort(descending=True, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    best = torch.full_like(kinds, len(order)).scatter_reduce(0, numbers, rank, "amin")
    centres, place = order[best].sort()
    return centres, place.argsort()[numbers]
