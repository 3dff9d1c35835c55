"""MustDrop (2024): merge uniform windows in the encoder, protect what its CLS token looks at, and
drop what all of the question neglects in stages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import normalize

from prunebench import (
    Budget,
    Facts,
    Keep,
    Part,
    Pruner,
    Reads,
    Signal,
    Site,
    Stage,
    VisualTokens,
    attention_reads,
    attention_stand_ins,
    check_attention,
    encoder_attention,
    llm,
    register,
    scaled_layer,
    solve,
    tile_places,
    top,
    vision,
)

KEYS = "mustdrop keys"
"""In the memo: by original visual index whether no stage may drop the token, bool."""

SIDE = 3
"""Of the windows, in tokens."""


@register(
    paper="https://arxiv.org/abs/2411.10803",
    code="https://github.com/liuting20/MustDrop",
    variant="merged windows stand where their last token stood, not in front of all others; a "
    "budget is met by thresholds that are solved for on the sample, at counts that fall by a "
    "constant factor; every tile protects its own share; grids of any shape, of which no whole "
    "window is left over",
)
@dataclass(frozen=True)
class MustDrop(Pruner):
    """Behind block 0 of the encoder windows of 3 x 3 tokens whose mean cosine is `similarity` or
    more become their mean; behind each of `layers` drop what the text behind the image neglects.

    Token j is dropped where the attention that all text rows pay it, averaged over heads, sums up
    to less than `shares` of what they pay all tokens, and where none of them pays it as much as
    `least`. The `protected` share of a tile's tokens with the highest attention of CLS in the last
    encoder block is never dropped. The caches from the first of `layers` on are cut to the
    survivors.

    `shares` and `least` have a value for each of `layers`, or fewer: the last counts for all
    further ones. `merge` False leaves out the first stage, `attention` is told of at
    `attention_reads`. Without a budget the thresholds decide, published for some 128 tokens. Under
    one, both are scaled until as many stay as it allows.
    """

    default_positions = "compact"
    dynamic = True
    merge: bool = True
    similarity: float = 0.8
    layers: tuple[int, ...] = (2, 6, 10, 14)
    depth: int = 32
    shares: tuple[float, ...] = (0.0012,)
    least: tuple[float, ...] = (0.001,)
    protected: float = 0.08
    attention: str = "auto"
    stateful: frozenset[int] = field(default=frozenset(), repr=False, compare=False)

    def __post_init__(self) -> None:
        check_attention(self.attention)
        rise = sorted({*self.layers}) == [*self.layers]
        if (
            not self.layers
            or not rise
            or not 0 <= self.layers[0] <= self.layers[-1] < self.depth - 1
        ):
            raise ValueError(f"layers are {list(self.layers)}; they rise in 0..{self.depth - 2}")
        if not self.shares or not self.least or min(*self.shares, *self.least, 1) <= 0:
            raise ValueError(
                f"shares are {list(self.shares)} and least {list(self.least)}; both are above 0"
            )

    def prepared(self, facts: Facts) -> Self:
        """The layers that do not attend are noted."""
        return replace(self, stateful=facts.stateful)

    @property
    def stand_ins(self) -> Mapping[Signal, Signal]:
        return attention_stand_ins(self.attention)

    @property
    def reads(self) -> Reads:
        text = Reads(frozenset({Signal.TEXT_ATTENTION}))
        return (text | attention_reads(self.attention, [-1])).only_at(Part.LLM)

    @property
    def needs(self) -> frozenset[Signal]:
        return self.reads.signals

    def site(self) -> Site:
        return vision(before=1) if self.merge else llm(before=self.layers[0] + 1)

    def plan(self, budget: Budget | None, available: int, layers: int) -> tuple[Stage, ...]:
        """The stages in the language model, behind the one in the encoder."""
        places = set()
        for layer in self.layers:
            places.add(scaled_layer(layer + 1, self.depth, layers, self.stateful))
        numbers = sorted(places)
        first = numbers[0] - 1
        sites = [llm(before=number) for number in numbers]
        if budget is None:
            stages = tuple(Stage(site, available, compact_from=first) for site in sites)
        else:
            stages = solve(budget, sites, available, layers, compact_from=first)
        return (Stage(vision(before=1), available), *stages) if self.merge else stages

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        """Windows in the encoder; in the language model what the thresholds spare, or as many."""
        if stage.site.part is Part.VISION:
            return self.pooled(tokens)
        scores = self.score(tokens, stage)
        if stage.keep >= len(tokens.layout):
            return Keep((scores >= 1).nonzero()[:, 0])
        return Keep(top(scores, stage.keep))

    def pooled(self, tokens: VisualTokens) -> Keep:
        """What the windows leave: a window's mean at the place of its last token."""
        windows, _ = self.windows(tokens)
        stays = torch.ones(len(tokens), dtype=torch.bool)
        stays[windows[:, :-1]] = False
        merged = tokens.features.clone()
        merged[windows[:, -1]] = tokens.features[windows].float().mean(dim=1).to(merged.dtype)
        index = stays.nonzero()[:, 0].to(merged.device)
        return Keep(index, merged[index])

    def windows(self, tokens: VisualTokens) -> tuple[Tensor, Tensor]:
        """[W, 9] places of the windows that are merged, the most uniform first, and how uniform
        they are.
        """
        grids = [torch.empty(0, SIDE * SIDE, dtype=torch.int64)]
        place = torch.full((len(tokens.layout),), -1)
        place[tokens.index] = torch.arange(len(tokens))
        for number, tile in enumerate(tokens.tiles):
            rows, columns = tile.rows // SIDE, tile.columns // SIDE
            grid = place[tokens.layout.grid(number)][: rows * SIDE, : columns * SIDE]
            cut = grid.unflatten(0, (rows, SIDE)).unflatten(2, (columns, SIDE))
            grids.append(cut.transpose(1, 2).reshape(-1, SIDE * SIDE))
        windows = torch.cat(grids)
        windows = windows[(windows >= 0).all(dim=1)]
        unit = normalize(tokens.features[windows].float(), dim=-1)
        others = SIDE * SIDE * (SIDE * SIDE - 1)
        # of all pairs but a token's with itself
        uniform = (unit.sum(dim=1).square().sum(dim=1) - SIDE * SIDE) / others
        order = top(uniform, int((uniform >= self.similarity).sum()))
        return windows[order.cpu()], uniform[order]

    def score(self, tokens: VisualTokens, stage: Stage) -> Tensor:
        """[N] by how much a token clears the thresholds: dropped below 1, protected above all."""
        attention = tokens.text_attention.float().mean(dim=0)  # [Q, N]
        sums, most = attention.sum(dim=0), attention.amax(dim=0)
        number = self.number(tokens, stage)
        share = self.shares[min(number, len(self.shares) - 1)]
        least = self.least[min(number, len(self.least) - 1)]
        scores = torch.maximum(sums / (share * sums.sum()), most / least)
        is_key = self.keys(tokens)[tokens.index].to(scores.device)
        # keys in their own order, above any quotient of attention
        return torch.where(is_key, scores + 1 + scores.amax(), scores)

    def number(self, tokens: VisualTokens, stage: Stage) -> int:
        """Which of the stages in the language model this is, from 0."""
        sites: list[Site] = tokens.memo.setdefault("mustdrop sites", [])
        if stage.site not in sites:
            sites.append(stage.site)
        return sites.index(stage.site)

    def keys(self, tokens: VisualTokens) -> Tensor:
        """[N] bool by original index; chosen at the first stage, where all are there."""
        if KEYS not in tokens.memo:
            attention = encoder_attention(tokens).mean(dim=(0, 1))
            is_key = torch.zeros(len(tokens.layout), dtype=torch.bool)
            for places in tile_places(tokens, newlines=False):
                best = top(
                    attention[places.to(attention.device)], ceil(self.protected * len(places))
                )
                is_key[tokens.index[places.cpu()[best.cpu()]]] = True
            tokens.memo[KEYS] = is_key
        keys: Tensor = tokens.memo[KEYS]
        return keys

    def explain(self, tokens: VisualTokens, stage: Stage) -> dict[str, Tensor]:
        """`windows`, the most uniform first, or the `key_set`."""
        if stage.site.part is Part.VISION:
            return {"windows": self.windows(tokens)[0]}
        return {"key_set": self.keys(tokens).nonzero()[:, 0]}
