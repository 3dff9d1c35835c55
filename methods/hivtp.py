"""HIVTP (2025): keep what middle blocks of the encoder look at in each quarter of the image, and
the best of every small window.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from prunebench import (
    Facts,
    Keep,
    Pruner,
    Reads,
    Signal,
    Stage,
    VisualTokens,
    pick_tiles,
    quotas,
    register,
    require_finite,
    tile_places,
    top,
    top_of_each,
)


@register(
    paper="https://arxiv.org/abs/2509.23663",
    code="https://github.com/Blacktower27/GOPrune",
    variant=(
        "meets a budget: half of it by quarters and half by windows, and both give way where one "
        "has no more; official code keeps about half of the tokens whatever is asked; unpadding "
        "and newlines are the model's"
    ),
)
@dataclass(frozen=True)
class HIVTP(Pruner):
    """A token's score is the attention that it receives from all queries, averaged over heads and
    the middle blocks; in each of a tile's four quarters the highest stay, and then the best of
    every window of 2 x 2 of which none has been taken otherwise.

    Settings:

    - `first`, `blocks`: the first of the middle blocks, a number or a share of the depth (6 of 24),
      and how many there are;
    - `official`: a quarter of the tokens of each quarter and the best other token of every window,
      however many that makes; a budget cuts off the last of them.
    """

    default_positions = "compact"
    work_by_shape = True
    own_share = 280 / 576
    first: int | float = 0.26
    blocks: int = 3
    official: bool = False
    feature_block: int = field(default=-1, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.blocks < 1:
            raise ValueError(f"blocks is {self.blocks}; it is 1 or more")

    @property
    def dynamic(self) -> bool:  # type: ignore[override]  # a setting decides
        return self.official

    def prepared(self, facts: Facts) -> Self:
        """The share of the encoder's depth becomes a block, the last of which the projector reads;
        a bare decoder has none to count.
        """
        if facts.vision_blocks is None or facts.feature_block is None:
            return self
        first = self.first
        if isinstance(first, float):
            first = min(int(first * facts.vision_blocks), facts.feature_block)
        return replace(self, first=first, feature_block=facts.feature_block)

    @property
    def reads(self) -> Reads:
        signal = Signal.RECEIVED_ATTENTION
        if isinstance(self.first, float):  # of a depth that is not known yet
            return Reads(frozenset({signal}))
        last = self.first + self.blocks
        if self.feature_block >= 0:
            last = min(last, self.feature_block + 1)
        return Reads(frozenset({signal}), blocks={signal: tuple(range(self.first, last))})

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        """Per tile those of the quarters, then those of the windows, then what is missing; raises
        ValueError for attention that is not finite.
        """
        scores = self.scores(tokens)
        require_finite(scores, "attention")

        def pick(places: Tensor, count: int) -> Tensor:
            own = places.cpu()
            high = self.of_quarters(tokens, own, scores, count)
            best = self.of_windows(tokens, own, scores, high)
            best = best[top(scores[best], count - len(high))]
            picks = torch.cat([high, best])
            if not self.official:
                rest = own[~torch.isin(own, picks)]
                picks = torch.cat([picks, rest[top(scores[rest], count - len(picks))]])
            return picks[:count].to(places.device)

        count = min(stage.keep, int((~tokens.newline).sum())) if self.official else stage.keep
        return Keep(pick_tiles(tokens, count, pick))

    def scores(self, tokens: VisualTokens) -> Tensor:
        """[N] attention received; 0 for newlines."""
        return tokens.received_attention.float().mean(dim=(0, 1)).cpu()

    def of_quarters(
        self, tokens: VisualTokens, places: Tensor, scores: Tensor, count: int
    ) -> Tensor:
        """The highest of each quarter of a tile."""
        tile = tokens.tiles[int(tokens.tile[places[0]])]
        lower = tokens.row[places] >= (tile.rows + 1) // 2
        right = tokens.column[places] >= (tile.columns + 1) // 2
        number = 2 * lower.long() + right.long()
        quarters = [places[number == quarter] for quarter in range(4)]
        if self.official:
            counts = [len(quarter) // 4 for quarter in quarters]
        else:
            counts = quotas(quarters, (count + 1) // 2)
        return top_of_each(scores, quarters, counts)

    @staticmethod
    def of_windows(tokens: VisualTokens, places: Tensor, scores: Tensor, high: Tensor) -> Tensor:
        """The best token of every window of 2 x 2 among those that are not in `high`."""
        rest = places[~torch.isin(places, high)]
        ranked = rest[top(scores[rest], len(rest))]
        tile = tokens.tiles[int(tokens.tile[places[0]])]
        window = tokens.row[ranked] // 2 * ((tile.columns + 1) // 2) + tokens.column[ranked] // 2
        ranked = ranked[window.sort(stable=True).indices]
        window = window.sort(stable=True).values
        is_best = torch.ones_like(window, dtype=torch.bool)
        is_best[1:] = window[1:] != window[:-1]
        return ranked[is_best]

    def explain(self, tokens: VisualTokens, stage: Stage) -> dict[str, Tensor]:
        scores = self.scores(tokens)
        tiles = [places.cpu() for places in tile_places(tokens, newlines=False)]
        high = []
        for places, quota in zip(tiles, quotas(tiles, stage.keep), strict=True):
            if quota > 0:
                high.append(self.of_quarters(tokens, places, scores, quota))
        return {"scores": scores, "keep_selected": torch.cat(high).sort().values}
