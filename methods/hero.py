"""HERO (2025): crops share the budget by what they show; low blocks rank tokens in crops, high ones
in the thumbnail.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import normalize

from prunebench import (
    Facts,
    Keep,
    Reads,
    ScorePruner,
    Signal,
    Stage,
    VisualTokens,
    register,
    share,
    top,
)
from prunebench import fill as filled

Blocks = tuple[int | float, ...]


@register(
    paper="https://arxiv.org/abs/2509.13067",
    code="https://github.com/Lxxx-0327/HERO",
    variant=(
        "newline tokens count in the budget, at most half of it; unpadding is the model's, which also ends the newlines of "
        "padded lines and leaves the second softmax to the tokens it left; batches, several images, images without crops"
    ),
)
@dataclass(frozen=True)
class HERO(ScorePruner):
    """Give the thumbnail as much as an average crop, and the crops the rest by weight; in each keep
    the highest scores.

    Weight of a crop: `density` * its share of what is no padding + (1 - `density`) * (`alpha` *
    saliency + (1 - `alpha`) * relevance). Saliency compares its CLS token with the thumbnail's,
    relevance CLIP's embedding of it with the question's; both are softmaxes over the crops at their
    temperatures. With `alpha` 1 no CLIP is asked. Score of a token: the CLS attention it gets,
    softmaxed once more over its crop, averaged over heads and blocks: `low` ones in crops, `high`
    ones in the thumbnail. Two shares stand for all blocks between these parts of the depth, whole
    numbers for single blocks.

    The paper's code brings 0.2, the formulas and the rounding: down, and what a crop cannot hold is
    lost, so that fewer tokens than allowed survive. Blocks, temperatures and alpha are published
    nowhere; the defaults are ours. So is `fill`, which hands out everything: largest remainders,
    overflow to crops with room, then to the thumbnail.
    """

    default_positions = "compact"
    dynamic = True
    alpha: float = 0.5
    saliency_temperature: float = 0.05
    relevance_temperature: float = 0.05
    density: float = 0.2
    low: Blocks = (0.25, 0.5)
    high: Blocks = (0.67, 0.96)
    fill: bool = False

    def __post_init__(self) -> None:
        if not (0 <= self.alpha <= 1 and 0 <= self.density <= 1):
            raise ValueError(
                f"alpha is {self.alpha} and density {self.density}; both are shares in 0..1"
            )
        if not (self.saliency_temperature > 0 and self.relevance_temperature > 0):
            raise ValueError(
                f"temperatures are {self.saliency_temperature} and {self.relevance_temperature}; they are above 0"
            )
        for name, blocks in (("low", self.low), ("high", self.high)):
            whole = bool(blocks) and all(type(block) is int for block in blocks)
            if not whole and not (len(blocks) == 2 and 0 <= blocks[0] < blocks[1] <= 1):
                raise ValueError(
                    f"{name} is {list(blocks)}; it is blocks, [6, 9], or the part of the depth between two shares"
                )

    @property
    def needs(self) -> frozenset[Signal]:
        asked = {Signal.CLIP_TEXT, Signal.CLIP_TILES} if self.alpha < 1 else set()
        return frozenset({Signal.TILES, Signal.CLS_ATTENTION, Signal.CLS_FEATURES, *asked})

    def prepared(self, facts: Facts) -> Self:
        if facts.vision_blocks is None:
            return self
        return replace(
            self,
            low=_between(self.low, facts.vision_blocks),
            high=_between(self.high, facts.vision_blocks),
        )

    @property
    def reads(self) -> Reads:
        ranking = (*_whole(self.low), *_whole(self.high))
        return Reads(self.needs, blocks={Signal.CLS_FEATURES: (-1,), Signal.CLS_ATTENTION: ranking})

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        score, visible = self.score(tokens), self.visible(tokens)
        ends = tokens.layout.newline[tokens.index].nonzero()[:, 0]
        most = min(len(ends), stage.keep // 2)
        kept = [ends[torch.arange(most) * len(ends) // max(1, most)].to(score.device)]
        for image, count in self._shared(tokens, stage.keep - most):
            for number, part in zip(
                image, self.budgets(tokens, image, visible, count), strict=True
            ):
                place = (_patches(tokens, number) & visible).nonzero()[:, 0].to(score.device)
                kept.append(place[top(score[place], part)])
        return Keep(torch.cat(kept))

    def score(self, tokens: VisualTokens) -> Tensor:
        """[N] CLS attention behind a second softmax; 0 for newlines."""
        attention = tokens.cls_attention.float()
        low = len(self.low)
        scores = attention.new_zeros(len(tokens))
        for number, tile in enumerate(tokens.tiles):
            place = _patches(tokens, number).nonzero()[:, 0].to(scores.device)
            seen = attention[:low] if tile.kind == "crop" else attention[low:]
            scores[place] = seen[..., place].softmax(dim=-1).mean(dim=(0, 1))
        return scores

    def visible(self, tokens: VisualTokens) -> Tensor:
        """[N] bool, on the CPU: False for tokens of a crop that lie in the padding."""
        layout, shown = tokens.layout, torch.ones(len(tokens), dtype=torch.bool)
        for number, tile in enumerate(tokens.tiles):
            if tile.kind == "crop" and tile.region is not None:
                left, upper, right, lower = tile.region
                place = _patches(tokens, number)
                row, column = (axis[tokens.index[place]] for axis in (layout.row, layout.column))
                shown[place] = _inside(row, tile.rows, upper, lower) & _inside(
                    column, tile.columns, left, right
                )
        return shown

    def budgets(
        self, tokens: VisualTokens, image: list[int], visible: Tensor, count: int
    ) -> list[int]:
        """How many of an image's `count` tokens each of its tiles gets; the thumbnail is the first."""
        room = torch.tensor([int((_patches(tokens, number) & visible).sum()) for number in image])
        own = min(max(1, count // len(image)), int(room[0]))
        if len(image) == 1:
            return [count]
        weights = self.weigh(tokens, image, visible)["tile_weights"].double().cpu()
        if self.fill:
            parts = filled(count - own, weights, room[1:])
            return [count - sum(parts), *parts]
        return [own, *torch.minimum((weights * (count - own)).long(), room[1:]).tolist()]

    def weigh(self, tokens: VisualTokens, image: list[int], visible: Tensor) -> dict[str, Tensor]:
        """[K] the weights of an image's crops, and by name what they are made of."""
        thumbnail, *crops = image
        cls = normalize(tokens.cls_features[0].float(), dim=-1)
        saliency = (cls[crops] @ cls[thumbnail] / self.saliency_temperature).softmax(dim=0)
        found = {"tile_saliency": saliency}
        if self.alpha < 1:
            shown, said = (
                normalize(embeds.float(), dim=-1)
                for embeds in (tokens.clip_tiles, tokens.clip_text)
            )
            found["tile_relevance"] = (shown[crops] @ said[0] / self.relevance_temperature).softmax(
                dim=0
            )
        counts = [int((_patches(tokens, number) & visible).sum()) for number in crops]
        filling = torch.tensor(counts, device=cls.device) / int(_patches(tokens, thumbnail).sum())
        # the 1e-6 is the official code's: it decides where a budget is just below a whole number
        found["tile_density"] = filling / (filling.sum() + 1e-6)
        meant = self.alpha * saliency + (1 - self.alpha) * found.get("tile_relevance", 0.0)
        return {
            **found,
            "tile_weights": self.density * found["tile_density"] + (1 - self.density) * meant,
        }

    def explain(self, tokens: VisualTokens, stage: Stage) -> dict[str, Tensor]:
        visible, made = self.visible(tokens), list[dict[str, Tensor]]()
        for image, count in self._shared(tokens, stage.keep):
            if len(image) > 1:
                parts = torch.tensor(self.budgets(tokens, image, visible, count)[1:])
                shown = torch.cat([visible[_patches(tokens, number)] for number in image[1:]])
                made.append(
                    {**self.weigh(tokens, image, visible), "budgets": parts, "tile_valid": shown}
                )
        joined = {
            name: torch.cat([one[name] for one in made]) for name in (made[0] if made else ())
        }
        return {"scores": self.score(tokens), **joined}

    @staticmethod
    def _shared(tokens: VisualTokens, total: int) -> Iterator[tuple[list[int], int]]:
        """Images and frames as their tiles' numbers, the thumbnail's first, with their part of the
        tokens, by size.
        """
        images: dict[tuple[int, int], list[int]] = {}
        for number, tile in enumerate(tokens.tiles):
            images.setdefault((tile.image, tile.frame), []).append(number)
        found = [
            sorted(image, key=lambda number: tokens.tiles[number].kind == "crop")
            for image in images.values()
        ]
        sizes = torch.tensor(
            [sum(int(_patches(tokens, number).sum()) for number in image) for image in found]
        )
        return (
            (image, part)
            for image, part in zip(found, share(total, sizes), strict=True)
            if part > 0
        )


def _patches(tokens: VisualTokens, number: int) -> Tensor:
    """[N] bool: the tokens of a tile, without newlines."""
    return (tokens.layout.tile[tokens.index] == number) & ~tokens.layout.newline[tokens.index]


def _inside(line: Tensor, lines: int, start: float, end: float) -> Tensor:
    """[n] bool: whether the lines of a tile that spans start..end of the image's side show the
    image.

    As the official code cuts: of an image that is h lines long, floor(h) in the middle, the smaller
    margin before them. Its k-th line has its centre at k + 1/2 or at k, plus half of what floor
    takes from h; a quarter tells the two apart.
    """
    length = lines / (end - start)
    whole = int(length + 1e-6)
    centre = start * length + line.double() + 0.5
    number = (centre - max(0.0, length - whole) / 2 + 0.25).floor()
    return (number >= 0) & (number < whole)


def _between(blocks: Blocks, depth: int) -> Blocks:
    """The blocks between two shares of the depth, at least one; numbers stay."""
    if all(type(block) is int for block in blocks):
        return blocks
    first, end = (int(block * depth) for block in blocks)
    first = min(first, depth - 1)
    return tuple(range(first, max(first + 1, end)))


def _whole(blocks: Blocks) -> tuple[int, ...]:
    if not all(type(block) is int for block in blocks):
        raise ValueError(
            f"blocks {list(blocks)} are shares of a depth that is not known yet: prepared() turns them into numbers"
        )
    return tuple(int(block) for block in blocks)
