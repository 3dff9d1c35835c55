"""ToMe (ICLR 2023): the most similar pairs of patches merge in every block of the vision
encoder.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from prunebench import (
    Budget,
    Facts,
    Keep,
    Pruner,
    Rows,
    Signal,
    Site,
    Stage,
    Unsupported,
    VisualTokens,
    quotas,
    register,
    require_finite,
    solve,
    tile_places,
    vision,
)

CLIP_BLOCK = 22
"""The block that LLaVA's projector reads, taken where nobody has said which."""


@register(
    paper="https://arxiv.org/abs/2210.09461",
    code="https://github.com/facebookresearch/ToMe",
    variant=(
        "merges behind a block and not between its attention and its MLP; sizes are carried from "
        "block to block, which ports to LLaVA leave out; a block whose half is not enough merges "
        "again"
    ),
)
@dataclass(frozen=True)
class ToMe(Pruner):
    """Bipartite soft matching, tile by tile, before each block up to the one that the projector
    reads, so many pairs in each that the budget is met exactly.

    Every second row may merge into the one among the others whose key in the block before, averaged
    over heads, is most like its own; the r most similar pairs do. A merged row is the mean weighed
    by how many patches each stands for, and its index is that of the row merged into. Rows are
    halved in the order in which official code lists them: those that did not merge, then those
    merged into.

    Settings:

    - `proportional`: whether the encoder's attention counts a merged row as often as the patches
      that it stands for (the log of its size is added to the scores of its key);
    - `class_token`: whether rows are halved as behind a class token, which never merges; without
      one official code begins with the other half, and lists rows that stay the most similar first.
    """

    needs = frozenset({Signal.ENCODER_KEYS})
    default_positions = "compact"
    work_by_shape = True
    proportional: bool = True
    class_token: bool = True
    block: int = field(default=CLIP_BLOCK, repr=False, compare=False)

    def prepared(self, facts: Facts) -> Self:
        """The number of the block that the projector reads; raises Unsupported where there is none
        behind another.
        """
        if not facts.feature_block:
            name = type(self).__name__
            raise Unsupported(f"{name} merges between blocks of a vision encoder; there are none")
        return replace(self, block=facts.feature_block)

    def site(self) -> Site:
        return vision(before=1)

    def sites(self) -> list[Site]:
        """The seams before every block that the first one's output goes through."""
        return [vision(before=number) for number in range(1, self.block + 1)]

    def plan(self, budget: Budget | None, available: int, layers: int) -> tuple[Stage, ...]:
        """As many pairs in every block, give or take one; raises BudgetError without a budget."""
        if budget is None:
            return super().plan(budget, available, layers)
        sites = self.sites()
        (last,) = solve(budget, sites[-1:], available, layers)
        stages = []
        for number, site in enumerate(sites[:-1], start=1):
            merged = (available - last.keep) * number // len(sites)
            stages.append(Stage(site, available - merged))
        return (*stages, last)

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        """What is left of every tile, with sizes for the stages to come in the memo; raises
        ValueError for keys or features that are not finite.
        """
        before = self.rows(tokens)
        layer = tokens.site.layer
        after = [self.merged(rows, quota, layer) for rows, quota in self.shares(before, stage)]
        order = torch.cat([rows.order for rows in after])
        sizes = torch.cat([rows.sizes for rows in after])
        tokens.memo[self.entry(layer)] = tokens.index[order.cpu()], sizes.cpu()
        index, numbers = order.sort()
        parts = [rows.features for rows in after]
        features = parts[0] if len(parts) == 1 else torch.cat(parts)
        merged = features.index_select(0, numbers).to(tokens.features.dtype)
        if not self.proportional:
            return Keep(index, merged)
        counted = torch.ones(len(tokens), device=index.device)
        for rows in before:
            counted[rows.order] = rows.sizes
        return Keep(index, merged, (sizes[numbers] / counted[index]).log())

    def merging(self, rows: Rows, quota: int, layer: int) -> int:
        """How many pairs of a tile merge at once before a block."""
        return len(rows) - quota

    def merged(self, rows: Rows, quota: int, layer: int) -> Rows:
        """What is left of a tile's rows before a block when no more than the quota are."""
        if quota == 0:
            return rows.among(rows.order[:0])
        rows = rows.merged(rows.pairs(self.merging(rows, quota, layer)))
        while len(rows) > quota:
            rows = rows.merged(rows.pairs(len(rows) - quota))
        return rows

    @staticmethod
    def shares(tiles: list[Rows], stage: Stage) -> list[tuple[Rows, int]]:
        """Every tile's rows with its share of the stage's tokens, by size."""
        counts = quotas([rows.order for rows in tiles], stage.keep)
        return list(zip(tiles, counts, strict=True))

    def rows(self, tokens: VisualTokens) -> list[Rows]:
        """The rows of every tile as the stage before left them."""
        features = tokens.features.float()
        metric = tokens.encoder_keys[0].float().mean(0)
        require_finite(features, "features")
        require_finite(metric, "encoder keys")
        order, sizes = self.before(tokens)
        metric = metric.to(features.device)
        tile = tokens.tile.to(order.device)[order]
        tiles = []
        for number in range(len(tokens.tiles)):
            own = order[tile == number]
            values = features.index_select(0, own), metric.index_select(0, own)
            tiles.append(Rows(own, *values, sizes[own], self.class_token))
        return tiles

    def before(self, tokens: VisualTokens) -> tuple[Tensor, Tensor]:
        """[n] places of the live tokens in the order of rows, and [n] by place how many patches
        each stands for.
        """
        device = tokens.features.device
        # what an earlier stage left; a stage may be asked twice and must not read its own answer
        entries = [self.entry(layer) for layer in range(tokens.site.layer)]
        entries = [entry for entry in entries if entry in tokens.memo]
        if not entries:
            places = torch.cat(tile_places(tokens))
            return places, torch.ones(len(tokens), device=device)
        index, values = tokens.memo[entries[-1]]
        places = torch.searchsorted(tokens.index, index)
        sizes = torch.empty(len(tokens)).index_copy(0, places, values)
        return places.to(device), sizes.to(device)

    def entry(self, layer: int) -> str:
        """The name in the memo of what the stage before that block left."""
        return f"{type(self).__name__} at {layer}"

    def explain(self, tokens: VisualTokens, stage: Stage) -> dict[str, Tensor]:
        """Of the first step, tile after tile: the pairs that merge, the most similar first, and the
        rows that are left with their sizes.
        """
        values: dict[str, list[Tensor]] = {}
        for rows, quota in self.shares(self.rows(tokens), stage):
            pairs = rows.pairs(self.merging(rows, quota, tokens.site.layer))
            left = rows.merged(pairs)
            values.setdefault("merge_source", []).append(rows.order[pairs.sources])
            values.setdefault("merge_target", []).append(rows.order[pairs.targets])
            values.setdefault("output_index", []).append(left.order)
            values.setdefault("output_sizes", []).append(left.sizes)
        return {name: torch.cat(parts) for name, parts in values.items()}
