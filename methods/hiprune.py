"""HiPrune (2025): keep what a middle block of the encoder looks at, what surrounds it, and what a
deep block looks at.
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
)


@register(
    paper="https://arxiv.org/abs/2508.00553",
    code="https://github.com/Danielement321/HiPrune",
    variant=(
        "neighbours lie in the grid, where official code counts on beyond the ends of rows; "
        "unpadding and newlines are the model's"
    ),
)
@dataclass(frozen=True)
class HiPrune(Pruner):
    """Per tile a fifth of `alpha` of the survivors are anchors, which the middle block attends to
    most; the four neighbours of each stay too, and the rest is what the deep block attends to most.

    Attention is what a token receives from all queries, CLS among them, averaged over heads; the
    deep block is that which the projector reads.

    Settings:

    - `alpha`: which share is anchors and neighbours, at most;
    - `middle`: the middle block, a number or a share of the depth (8 of 24);
    - `official`: neighbours by number in the raster, cut off at its ends.
    """

    default_positions = "compact"
    work_by_shape = True
    alpha: float = 0.1
    middle: int | float = 0.34
    official: bool = False
    feature_block: int = field(default=-1, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha is {self.alpha:g}; it is a share in 0..1")

    def prepared(self, facts: Facts) -> Self:
        """The share of the encoder's depth becomes a block; a bare decoder has none to count."""
        if facts.vision_blocks is None or facts.feature_block is None:
            return self
        middle = self.middle
        if isinstance(middle, float):
            middle = min(int(middle * facts.vision_blocks), facts.feature_block)
        return replace(self, middle=middle, feature_block=facts.feature_block)

    @property
    def reads(self) -> Reads:
        # a share of a depth that is not known yet names no block
        blocks = () if isinstance(self.middle, float) else (self.middle, self.feature_block)
        signal = Signal.RECEIVED_ATTENTION
        return Reads(frozenset({signal}), blocks={signal: blocks} if blocks else {})

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        """Per tile anchors, neighbours, then the rest by deep attention; raises ValueError for
        attention that is not finite.
        """
        scores = tokens.received_attention.float().mean(1).cpu()  # [2, N]
        require_finite(scores, "attention")

        def pick(places: Tensor, count: int) -> Tensor:
            own = places.cpu()
            anchors, near = self.anchors(tokens, own, scores, count)
            surroundings = own[near & ~torch.isin(own, anchors)]
            surroundings = surroundings[top(scores[1, surroundings], count - len(anchors))]
            taken_places = torch.cat([anchors, surroundings])
            rest = own[~torch.isin(own, taken_places)]
            rest = rest[top(scores[1, rest], count - len(taken_places))]
            return torch.cat([taken_places, rest]).to(places.device)

        return Keep(pick_tiles(tokens, stage.keep, pick))

    def anchors(
        self, tokens: VisualTokens, places: Tensor, scores: Tensor, count: int
    ) -> tuple[Tensor, Tensor]:
        """The anchors of a tile, and [n] bool which of its places they or their neighbours are."""
        best = top(scores[0, places], min(count, round(count * self.alpha / 5)))
        anchors = places[best]
        tile = tokens.tiles[int(tokens.tile[places[0]])]
        if self.official:
            steps = torch.tensor([0, -1, 1, -tile.columns, tile.columns])
            numbers = (best[:, None] + steps).clamp(0, len(places) - 1).flatten()
            is_near = torch.zeros(len(places), dtype=torch.bool)
            is_near[numbers] = True
            return anchors, is_near
        row = (tokens.row[places][:, None] - tokens.row[anchors]).abs()
        column = (tokens.column[places][:, None] - tokens.column[anchors]).abs()
        return anchors, (row + column <= 1).any(1)

    def explain(self, tokens: VisualTokens, stage: Stage) -> dict[str, Tensor]:
        scores = tokens.received_attention.float().mean(1).cpu()
        tiles = [places.cpu() for places in tile_places(tokens, newlines=False)]
        anchors, buffers = [], []
        for places, quota in zip(tiles, quotas(tiles, stage.keep), strict=True):
            if quota > 0:
                own, is_near = self.anchors(tokens, places, scores, quota)
                anchors.append(own.sort().values)
                buffers.append(places[is_near])
        return {"keep_anchor": torch.cat(anchors), "keep_buffer": torch.cat(buffers)}
