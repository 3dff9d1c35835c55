"""AIM (ICCV 2025): merge similar tokens ahead of the language model, and inside it drop those of
low page rank, layer by layer, until none is left.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from prunebench import (
    INPUT,
    Budget,
    Keep,
    Part,
    Pruner,
    Reads,
    Signal,
    Site,
    Stage,
    VisualTokens,
    llm,
    powers,
    quotas,
    register,
    solve,
    tile_places,
    top,
    with_newlines,
)

CHUNK = 256
"""Queries whose links are worked out at once."""


@register(
    paper="https://arxiv.org/abs/2412.03248",
    code="https://github.com/LaVi-Lab/AIM",
    variant="tokens are removed, where official code masks them and keeps their rows and caches; "
    "newline tokens merge with nothing and go first; a budget gets powers of the "
    "shares",
)
@dataclass(frozen=True)
class AIM(Pruner):
    """Merge every tile down to `merged` of its tokens, then behind the layers `first`..`last` keep
    the tokens of the largest page rank, fewer by the same number each time, at last none.

    A round of merging takes the even places for sources and the odd ones for targets; the sources
    with the largest cosine to their best target are merged into it, a plain mean that counts no
    sizes. Page rank is the root mean square over heads of v after five steps v <- v M from equal
    shares, M the causal softmax of the layer's logits over `temperature`.

    `first` and `last` are shares of the depth: layers 14 to 21 of 28, as published. Position ids
    keep their gaps.
    """

    work_by_shape = True
    merged: float = 0.25
    first: float = 0.5
    last: float = 0.75
    temperature: float = 0.1
    steps: int = 5

    def __post_init__(self) -> None:
        if not 0 < self.merged <= 1:
            raise ValueError(f"merged is {self.merged}; it is a share in (0, 1]")
        if not 0 <= self.first < self.last < 1:
            raise ValueError(f"first is {self.first} and last {self.last}; shares of the depth")
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}; it is above 0")

    @property
    def reads(self) -> Reads:
        signals = {Signal.PROMPT_QUERIES, Signal.PROMPT_KEYS, Signal.VISUAL_PLACES}
        return Reads(frozenset(signals)).only_at(Part.LLM)

    @property
    def needs(self) -> frozenset[Signal]:
        return self.reads.signals

    def site(self) -> Site:
        return INPUT

    def plan(self, budget: Budget | None, available: int, layers: int) -> tuple[Stage, ...]:
        """The merging, and a stage behind each layer of the schedule."""
        first = max(0, int(self.first * layers))
        last = min(layers - 2, max(first, int(self.last * layers)))
        numbers = range(first + 1, last + 2)
        sites = [INPUT, *(llm(before=number) for number in numbers)]
        # of 8 layers 7/8, 6/8, ... and none behind the last
        steps = [1 - (number - first) / len(numbers) for number in numbers]
        if budget is None:
            count = max(1, round(self.merged * available))
            counts = [count, *(int(step * count) for step in steps)]
            return tuple(Stage(site, kept) for site, kept in zip(sites, counts, strict=True))
        ratios = [self.merged, *(self.merged * step for step in steps)]
        return solve(budget, sites, available, layers, powers(ratios), fewest=0)

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        """Merged rows at the input, the highest page ranks later."""
        if stage.site != INPUT:
            return Keep(top(self.score(tokens), stage.keep))
        groups = tile_places(tokens, newlines=False)
        kept, rows = [tokens.index[:0].to(tokens.features.device)], [tokens.features[:0].float()]
        for places, count in zip(groups, quotas(groups, stage.keep), strict=True):
            if count > 0:
                left, features = merged(tokens.features[places].float(), count)
                kept.append(places[left])
                rows.append(features)
        index = with_newlines(tokens, torch.cat(kept), stage.keep)
        newlines = index[sum(map(len, kept)) :]
        features = torch.cat([*rows, tokens.features[newlines].float()])
        return Keep(index, features.to(tokens.features.dtype), order="given")

    def score(self, tokens: VisualTokens) -> Tensor:
        """[N] page rank in the layer before the site."""
        queries, keys = tokens.prompt_queries, tokens.prompt_keys
        total = torch.zeros(queries.shape[1], device=queries.device)
        group = len(queries) // len(keys)
        # head by head: all maps [S, S] at once would be large
        for number, query in enumerate(queries):
            total += self.page_rank(query.float(), keys[number // group].float()).square()
        places = tokens.visual_places.to(total.device)
        return (total / len(queries)).sqrt()[places]

    def page_rank(self, query: Tensor, key: Tensor) -> Tensor:
        """[S] of one head, from its queries and keys [S, d_h]."""
        count, scale = len(query), query.shape[1] ** 0.5 * self.temperature
        parts = []  # [CHUNK, keys up to the last of its queries], for none sees what is behind it
        for start in range(0, count, CHUNK):
            rows = query[start : start + CHUNK]
            logits = (rows @ key[: start + CHUNK].T).div_(scale)
            hidden = torch.ones_like(logits, dtype=torch.bool).triu(start + 1)
            parts.append(logits.masked_fill_(hidden, -torch.inf).softmax(dim=1))
        rank = torch.full_like(query[:, 0], 1 / count)
        for _ in range(self.steps):
            passed = torch.zeros_like(rank)
            for own, links in zip(rank.split(CHUNK), parts, strict=True):
                passed[: links.shape[1]] += own @ links
            rank = passed
        return rank

    def explain(self, tokens: VisualTokens, stage: Stage) -> dict[str, Tensor]:
        """Scores, or the merged tokens in the order in which they go on."""
        if stage.site != INPUT:
            return {"scores": self.score(tokens)}
        return {"output_index": tokens.index[self.prune(tokens, stage).index.cpu()]}


def merged(features: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """[count] places and rows [count, D] that are left of `features` [n, D] behind rounds of
    merging, sources that stay by falling likeness and then the targets.
    """
    places = torch.arange(len(features), device=features.device)
    while len(places) > count:
        source = torch.arange(0, len(places), 2, device=places.device)
        target = torch.arange(1, len(places), 2, device=places.device)
        unit = normalize(features, dim=-1)
        closest = (unit[source] @ unit[target].T).max(dim=1)
        # one target at least is there: two places or more are left
        merges = min(len(places) // 2, len(places) - count)
        order = top(closest.values, len(source))
        pairs, stays = order[:merges], source[order[merges:]]
        joins = one_hot(closest.indices[pairs], len(target)).T.float()
        sums = features[target] + joins @ features[source[pairs]]
        means = sums / (1 + joins.sum(dim=1, keepdim=True))
        features = torch.cat([features[stays], means])
        places = torch.cat([places[stays], places[target]])
    return places, features
