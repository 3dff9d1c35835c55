"""PACT (CVPR 2025): drop what the average query of image and system prompt overlooks, then merge
clusters of keys, which count by their sizes from there on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import sqrt
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from prunebench import (
    Budget,
    Facts,
    Keep,
    Pruner,
    Signal,
    Site,
    Stage,
    VisualTokens,
    gram,
    leaders,
    llm,
    register,
    require_finite,
    scaled_layer,
    solve,
    top,
)

HALVINGS = 24
"""Of the interval in which the cutoff for a budget is searched."""


@register(
    paper="https://arxiv.org/abs/2504.08966",
    code="https://github.com/orailix/PACT",
    variant="cluster sizes are added to scores in full precision; under a budget the cutoff is "
    "solved for on the sample, and as many centres as asked for remain",
)
@dataclass(frozen=True)
class PACT(Pruner):
    """Before layer `layer` keep the `share` of the tokens that matter most, and of these the
    density peaks of their keys, with the means of what lies close.

    A token matters by what the mean query of the layer pays its key, without rotary positions, in a
    softmax over all rows up to the last visual one, averaged over heads, times the L2 norm of its
    state. By descending density sum_j exp(-(d_ij / 2)^2), d the cosine distance of the rotated
    keys, a token becomes a centre if all centres are farther than `cutoff`. Every other token,
    those of the first step too, joins its nearest centre if within `reach` cutoffs, or is lost. The
    log of a cluster's size is added to its scores in this and all later layers.

    `layer` is one of a model of `depth` layers; in others it lies at the same share of them.
    Without a budget `share` and `cutoff` decide, as published.
    """

    needs = frozenset(
        {
            Signal.NEXT_QUERIES,
            Signal.NEXT_KEYS,
            Signal.NEXT_ROTATED_KEYS,
            Signal.VISUAL_PLACES,
        }
    )
    dynamic = True
    layer: int = 4
    depth: int = 28
    share: float = 0.55
    cutoff: float = 0.21
    reach: float = 1.5

    def __post_init__(self) -> None:
        if not 1 <= self.layer < self.depth:
            raise ValueError(f"layer is {self.layer}; it lies in 1..{self.depth - 1}")
        if not 0 < self.share <= 1:
            raise ValueError(f"share is {self.share}; it lies in (0, 1]")

    def prepared(self, facts: Facts) -> Self:
        """The layer becomes that of the model."""
        layer = scaled_layer(self.layer, self.depth, facts.layers)
        return replace(self, layer=layer, depth=facts.layers)

    def site(self) -> Site:
        return llm(before=self.layer)

    def plan(self, budget: Budget | None, available: int, layers: int) -> tuple[Stage, ...]:
        """One stage, which allows everything where no budget says less."""
        site = llm(before=scaled_layer(self.layer, self.depth, layers))
        if budget is None:
            return (Stage(site, available),)
        return solve(budget, [site], available, layers)

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        """The centres, with the means and the sizes of their clusters."""
        require_finite(tokens.features, "features")
        first = self.first(tokens, stage)
        keys = _of_visual(tokens, tokens.next_rotated_keys).transpose(0, 1).flatten(1)
        unit = normalize(keys, dim=-1)
        within = 1 - gram(unit[first])
        density = (-(within / 2).square()).exp().sum(dim=1)
        order = density.sort(descending=True, stable=True).indices
        within = within[order][:, order]
        cutoff = self.cutoff
        if stage.keep < len(tokens.layout):
            cutoff = cutoff_for(within, stage.keep)
        places = first[order[peaks(within, cutoff, stage.keep)]]
        distance, nearest = (1 - unit @ unit[places].T).min(dim=1)
        nearest[places] = torch.arange(len(places), device=places.device)
        joins = distance <= self.reach * cutoff
        joins[places] = True
        members = one_hot(nearest, len(places)).T.float() * joins
        sizes = members.sum(dim=1)
        merged = members @ tokens.features.float() / sizes[:, None]
        return Keep(places, merged.to(tokens.features.dtype), sizes.log())

    def first(self, tokens: VisualTokens, stage: Stage) -> Tensor:
        """The places that the first step leaves, by descending score."""
        count = max(1, int(len(tokens) * self.share))
        if stage.keep < len(tokens.layout):
            count = max(count, stage.keep)
        return top(self.score(tokens), count)

    def score(self, tokens: VisualTokens) -> Tensor:
        """[N] how much a token matters."""
        rows = int(tokens.visual_places.max()) + 1
        query = tokens.next_queries[:, :rows].float().mean(dim=1)  # [H, d_h]
        keys = tokens.next_keys[:, :rows].float()
        keys = keys.repeat_interleave(len(query) // len(keys), dim=0)
        scores = (keys @ query[..., None])[..., 0] / sqrt(query.shape[1])  # [H, rows]
        paid: Tensor = scores.softmax(dim=1).mean(dim=0)[tokens.visual_places.to(keys.device)]
        norms: Tensor = tokens.features.float().norm(dim=1)
        return paid * norms.to(paid.device)

    def explain(self, tokens: VisualTokens, stage: Stage) -> dict[str, Tensor]:
        keep = self.prune(tokens, stage).ascending()
        sizes = torch.empty(0) if keep.bias is None else keep.bias.exp()
        return {
            "scores": self.score(tokens),
            "keep_first": self.first(tokens, stage).sort().values,
            "weights": sizes.round().long(),
        }


def peaks(distance: Tensor, cutoff: float, most: int) -> Tensor:
    """The centres, `most` of them at most: each the first of the points that are farther than
    `cutoff` from all centres before it; `distance` [n, n] are between points by falling density.
    """
    return leaders(distance <= cutoff).nonzero()[:most, 0]


def cutoff_for(distance: Tensor, count: int) -> float:
    """About the largest cutoff that leaves `count` centres or more."""
    # at -1 every point is one, for no distance is less than 0; cosines differ by 2 at most
    low, high = -1.0, 2.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if len(peaks(distance, middle, count)) >= count:
            low = middle
        else:
            high = middle
    return low


def _of_visual(tokens: VisualTokens, heads: Tensor) -> Tensor:
    """[H, N, d_h] in float32: of heads [H, S, d_h] the rows of the visual tokens."""
    return heads[:, tokens.visual_places.to(heads.device)].float()
