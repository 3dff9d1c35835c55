"""HiRED (AAAI 2025): crops share the budget by how much of the thumbnail's attention falls on them;
each keeps its most attended tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    attention_reads,
    attention_stand_ins,
    check_attention,
    encoder_attention,
    fill,
    quotas,
    register,
    require_finite,
    tile_places,
    top,
    top_of_each,
    view_places,
    views,
    with_newlines,
)


@register(
    paper="https://arxiv.org/abs/2408.10945",
    code="https://github.com/hasanar1f/HiRED",
    variant=(
        "the part of a crop is what it shows of the thumbnail, where official code takes a run of "
        "the raster; parts are rounded to the budget; unpadding, which comes first and costs no "
        "tokens, and newlines are the model's"
    ),
)
@dataclass(frozen=True)
class HiRED(Pruner):
    """Of an image with crops the thumbnail gets `alpha` of the budget and the crops the rest, by
    how many of the thumbnail's most attended tokens lie in each.

    These are the 1 - `alpha` of the thumbnail's tokens that block `early` attends to most. All
    tokens are ranked by the attention of the block that the projector reads, summed over heads.

    Settings:

    - `alpha`: the thumbnail's share;
    - `early`: the block that says where in the thumbnail there is something to see;
    - `official`: parts by runs of the raster, rounded down, padding kept and then lost, so that
      fewer tokens survive;
    - `attention`: see `attention_reads`.
    """

    default_positions = "compact"
    work_by_shape = True
    own_share = 0.2
    alpha: float = 0.5
    early: int = 0
    official: bool = False
    attention: str = "auto"
    feature_block: int = field(default=-1, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_attention(self.attention)
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha is {self.alpha:g}; it is a share in 0..1")

    @property
    def dynamic(self) -> bool:  # type: ignore[override]  # a setting decides
        return self.official

    def prepared(self, facts: Facts) -> Self:
        """The block that the projector reads becomes known."""
        if facts.feature_block is None:
            return self
        return replace(self, feature_block=facts.feature_block)

    @property
    def stand_ins(self) -> Mapping[Signal, Signal | None]:
        return attention_stand_ins(self.attention)

    @property
    def reads(self) -> Reads:
        return attention_reads(self.attention, (self.early, self.feature_block))

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        """Tile after tile, the most attended first; raises ValueError for attention that is not
        finite.
        """
        index = self.picks(tokens, stage.keep)
        if self.official:
            return Keep(index[_shown_by_crops(tokens)[index]])
        return Keep(with_newlines(tokens, index, stage.keep))

    def picks(self, tokens: VisualTokens, count: int) -> Tensor:
        """The places of every tile's most attended tokens."""
        scores = self.scores(tokens)
        require_finite(scores, "attention")
        tiles, counts = self.shared(tokens, scores[0], count)
        return top_of_each(scores[1], tiles, counts)

    def scores(self, tokens: VisualTokens) -> Tensor:
        """[2, N] attention summed over heads, of the early block and of that which ranks."""
        return encoder_attention(tokens).sum(1).cpu()

    def shared(
        self, tokens: VisualTokens, early: Tensor, count: int
    ) -> tuple[list[Tensor], list[int]]:
        """Tiles as places on the CPU, the thumbnail of an image first, and how many of each stay;
        `early` [N] is the attention of the early block.
        """
        tiles = [places.cpu() for places in tile_places(tokens, newlines=False)]
        parts: list[Tensor] = []
        counts: list[int] = []
        for view, quota in zip(views(tokens), quotas(view_places(tokens), count), strict=True):
            # stable, and False comes first: the thumbnail, then the crops in their order
            view.sort(key=lambda number: tokens.tiles[number].kind == "crop")
            of_view = [tiles[number] for number in view]
            parts += of_view
            has_crops = any(tokens.tiles[number].kind == "crop" for number in view)
            if has_crops:
                counts += self.budgets(tokens, view, of_view, early, quota)
            else:
                counts += quotas(of_view, quota)
        return parts, counts

    def budgets(
        self,
        tokens: VisualTokens,
        view: Sequence[int],
        tiles: Sequence[Tensor],
        early: Tensor,
        count: int,
    ) -> list[int]:
        """How many of an image's `count` tokens each of its tiles keeps, the thumbnail first."""
        thumbnail, *crops = tiles
        own = min(int(count * self.alpha), len(thumbnail))
        marks = int(len(thumbnail) * (1 - self.alpha))
        marked = thumbnail[top(early[thumbnail], marks)]
        room = torch.tensor([len(places) for places in crops])
        if self.official:
            rest = min(count - own, int(room.sum()))
            run = len(thumbnail) // len(crops)
            strip = torch.searchsorted(thumbnail, marked) // max(1, run)
            weights = torch.bincount(strip, minlength=len(crops))[: len(crops)].double()
            exact = rest * weights / weights.sum().clamp(min=1)
            return [own, *exact.long().minimum(room).tolist()]
        weights = torch.tensor([self.marks_in(tokens, marked, view[0], crop) for crop in view[1:]])
        parts = fill(count - own, weights, room)
        return [count - sum(parts), *parts]

    @staticmethod
    def marks_in(tokens: VisualTokens, marked: Tensor, thumbnail: int, crop: int) -> int:
        """How many of the thumbnail's marked tokens have their centre in what a crop shows; of a
        crop whose place is unknown all, so that it counts like others of that kind.
        """
        whole, region = tokens.tiles[thumbnail], tokens.tiles[crop].region
        if region is None:
            return len(marked)
        left, upper, right, lower = region
        x = (tokens.column[marked] + 0.5) / whole.columns
        y = (tokens.row[marked] + 0.5) / whole.rows
        inside = (left <= x) & (x < right) & (upper <= y) & (y < lower)
        return int(inside.sum())

    def explain(self, tokens: VisualTokens, stage: Stage) -> dict[str, Tensor]:
        scores = self.scores(tokens)
        _, counts = self.shared(tokens, scores[0], stage.keep)
        return {
            "scores": scores[1],
            "budgets": torch.tensor(counts),
            "keep_before_unpadding": self.picks(tokens, stage.keep).sort().values,
        }


def _shown_by_crops(tokens: VisualTokens) -> Tensor:
    """[N] bool: False for tokens of crops in the lines of padding that official code cuts away, as
    many on either side: of a picture of h lines in a grid of L these are (L - floor(h)) // 2.
    """
    shows = torch.ones(len(tokens), dtype=torch.bool)
    for view in views(tokens):
        numbers = [number for number in view if tokens.tiles[number].kind == "crop"]
        regions = [region for n in numbers if (region := tokens.tiles[n].region) is not None]
        for number in numbers:
            tile = tokens.tiles[number]
            if tile.region is None:
                continue
            place = tokens.tile == number
            lines = (tokens.column, tile.columns), (tokens.row, tile.rows)
            for axis, (line, count) in enumerate(lines):
                start, end = tile.region[axis], tile.region[axis + 2]
                first = min(region[axis] for region in regions)
                last = max(region[axis + 2] for region in regions)
                length = count / (end - start)
                # 1e-6: a quotient that is whole may come out just below
                grid = round((last - first) * length)
                margin = (grid - int(length + 1e-6)) // 2
                position = round((start - first) * length) + line
                shows &= ~place | ((position >= margin) & (position < grid - margin))
    return shows
