"""VLM-Pruner (2025): from a few pivots outwards, keep tokens unlike the ones kept before, the near
ones first; the dropped ones leave a part of themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor
from torch.nn.functional import normalize

from prunebench import (
    Keep,
    Pruner,
    Signal,
    Site,
    Stage,
    VisualTokens,
    gram,
    llm,
    register,
    require_finite,
    top,
)


@register(
    paper="https://arxiv.org/abs/2512.02700",
    code="https://github.com/xipingyan/VLMPruner",
    variant="the threshold rises until the budget is met, where the official search ends with a "
    "round that adds nothing and keeps fewer; similarities below 0 are no weights; distances in "
    "the token's own grid, which the official code takes to be 24 wide",
)
@dataclass(frozen=True)
class VLMPruner(Pruner):
    """Grow a set of tokens in rounds, and merge the others into it.

    It starts from `pivots` tokens: the one with the keys of the largest L1 norm, then each time the
    one whose keys are farthest from those taken. sigma_c = max_s S_cs (1 + d_c / (2 D)) says how
    little a candidate adds: S is the cosine of the states on the `channels` of the largest variance
    over the image, s a token taken before, d_c the distance in the grid to the nearest of these, D
    the diagonal of the grid's longer side. A round goes through the candidates by rising sigma in
    batches of `batch`, and takes those below its threshold; the first threshold is `threshold`,
    every further one .1 higher. Then every dropped token joins the kept one of the largest S:
    kept <- (1 - `mix`) kept + `mix` (mean of the joined, weighted by S).

    Tokens of different tiles are as far apart as a grid allows. `official` ends with a round that
    adds nothing, so that fewer tokens than allowed survive, and takes negative S for weights.
    """

    needs = frozenset({Signal.KEYS})
    layer: int = 2
    pivots: int = 4
    threshold: float = 0.8
    batch: int = 16
    channels: int = 256
    mix: float = 0.7
    official: bool = False

    def __post_init__(self) -> None:
        if self.pivots < 1 or self.batch < 1 or self.channels < 1:
            raise ValueError(
                f"pivots is {self.pivots}, batch {self.batch} and channels {self.channels}; "
                "each is 1 or more"
            )
        if not 0 <= self.mix <= 1:
            raise ValueError(f"mix is {self.mix}; it lies in 0..1")

    @property
    def dynamic(self) -> bool:  # type: ignore[override]  # as a setting has it
        """Whether it may keep fewer tokens than it may, as the official code does."""
        return self.official

    def site(self) -> Site:
        return llm(before=self.layer)

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        """The tokens taken, in the order in which they were, with what joined them."""
        require_finite(tokens.features, "features")
        similarity = self.similarity(tokens.features.float())
        order = self.order(tokens, similarity, min(stage.keep, len(tokens)))
        return Keep(order, self.merged(tokens.features, similarity, order))

    def similarity(self, features: Tensor) -> Tensor:
        """[N, N] the cosine of the states on the channels that vary most."""
        varying = top(features.var(dim=0, correction=0), self.channels)
        unit = normalize(features[:, varying], dim=-1)
        return gram(unit)

    def order(self, tokens: VisualTokens, similarity: Tensor, count: int) -> Tensor:
        """[count] the tokens taken, fewer where `official` ends early."""
        distance = _distances(tokens).to(similarity.device)
        order = farthest(tokens.keys.float(), min(self.pivots, count)).to(similarity.device)
        growth = _Growth(order, similarity, distance)
        threshold = self.threshold
        while len(growth.order) < count:
            before = len(growth.order)
            self.round(growth, threshold, count)
            if self.official and len(growth.order) == before:
                break
            threshold += 0.1
        return growth.order

    def round(self, growth: _Growth, threshold: float, count: int) -> None:
        """One pass over the candidates in batches; ends where the best ones bring nothing new."""
        before = len(growth.order)
        for batch in growth.candidates().split(self.batch):
            sigma = growth.sigma[batch]
            is_new = sigma < threshold
            news = batch[is_new]
            room = count - len(growth.order)
            if len(news) > room:
                news = news[sigma[is_new].sort(stable=True).indices[:room]]
            if len(news) == 0 and len(growth.order) == before:
                return
            if len(news) > 0:
                growth.add(news)
            if len(growth.order) == count:
                return

    def merged(self, features: Tensor, similarity: Tensor, order: Tensor) -> Tensor:
        """[K, D] the survivors with what joined them."""
        states = features.float()
        best = similarity[order].max(dim=0)  # over the survivors, for every token
        weights = best.values if self.official else best.values.clamp(min=0)
        joins = torch.zeros_like(similarity[order])
        joins.scatter_(0, best.indices[None], weights[None])
        joins[:, order] = 0.0  # those that are kept join nobody
        total = joins.sum(dim=1, keepdim=True)
        has_joined = (joins != 0).any(dim=1, keepdim=True)
        mean = joins @ states / torch.where(has_joined, total, 1.0)
        mixed = (1 - self.mix) * states[order] + self.mix * mean
        return torch.where(has_joined, mixed, states[order]).to(features.dtype)


class _Growth:
    """The tokens taken so far, `order`, and sigma of all others, between which `distance` [N, N] is
    in units of 2 D.
    """

    def __init__(self, order: Tensor, similarity: Tensor, distance: Tensor) -> None:
        self.order = order
        self._similarity, self._distance = similarity, distance
        self._closest = similarity[order].amax(dim=0)
        self._nearest = distance[order].amin(dim=0)

    @property
    def sigma(self) -> Tensor:
        """[N] how much of each the tokens taken show."""
        return self._closest * (1 + self._nearest)

    def candidates(self) -> Tensor:
        """[N - taken] the others by rising sigma."""
        sigma = self.sigma.index_fill(0, self.order, torch.inf)
        return sigma.sort(stable=True).indices[: len(sigma) - len(self.order)]

    def add(self, news: Tensor) -> None:
        """Take tokens `news` [m]."""
        self.order = torch.cat([self.order, news])
        self._closest = torch.maximum(self._closest, self._similarity[news].amax(dim=0))
        self._nearest = torch.minimum(self._nearest, self._distance[news].amin(dim=0))


def farthest(keys: Tensor, count: int) -> Tensor:
    """[count] places: of `keys` [H, N, d] the one of the largest L1 norm, then each time the one
    farthest from those taken.
    """
    flat = keys.transpose(0, 1).flatten(1)
    places = [flat.abs().sum(dim=1).argmax().view(1)]
    gap = torch.full_like(flat[:, 0], torch.inf)
    for _ in range(count - 1):
        to_last = (flat - flat[places[-1]]).square().sum(dim=1)
        gap = torch.minimum(gap, to_last).index_fill(0, places[-1], -torch.inf)
        places.append(gap.argmax().view(1))
    return torch.cat(places)


def _distances(tokens: VisualTokens) -> Tensor:
    """[N, N] distances in the tokens' grids over twice the diagonal of the longer side; 1/2 between
    tiles.
    """
    sides = torch.tensor([float(max(tile.rows, tile.columns, 1)) for tile in tokens.tiles])
    places = torch.stack([tokens.row, tokens.column], dim=1).float()
    units = 2 * sqrt(2) * sides[tokens.tile]
    own = torch.cdist(places, places) / units[:, None]
    return torch.where(tokens.tile[:, None] == tokens.tile, own, 0.5)
