"""HERO (2025): crops share the budget by what they show; low blocks rank tokens in crops, high ones
in the thumbnail.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import normalize

from prunebench import (
    REGIONS_PORT,
    Facts,
    Keep,
    Reads,
    ScorePruner,
    Signal,
    Stage,
    VisualTokens,
    attention_reads,
    attention_stand_ins,
    check_attention,
    encoder_attention,
    in_regions,
    register,
    share,
    summary_reads,
    tile_summaries,
    top,
    whole_summary,
)
from prunebench import fill as filled

Blocks = tuple[int | float, ...]


@register(
    paper="https://arxiv.org/abs/2509.13067",
    code="https://github.com/Lxxx-0327/HERO",
    variant=(
        "newline tokens count in the budget, at most half of it; unpadding is the model's, which "
        "also ends the newlines of padded lines and leaves the second softmax to the tokens it "
        "left; batches, several images, images without crops"
    ),
)
@dataclass(frozen=True)
class HERO(ScorePruner):
    """Give the thumbnail as much as an average crop, and the crops the rest by weight; in each keep
    the highest scores.

    The weight of a crop is `density` * its share of what is no padding + (1 - `density`) *
    (`alpha` * saliency + (1 - `alpha`) * relevance). Saliency compares its CLS token with the
    thumbnail's, relevance CLIP's embedding of it with the question's; both are softmaxes over the
    crops. The score of a token is the CLS attention it gets, softmaxed once more over its crop,
    averaged over heads and blocks.

    The paper's code brings a `density` of 0.2, the formulas and the rounding: down, and what a crop
    cannot hold is lost, so that fewer tokens than allowed survive. Blocks, temperatures and `alpha`
    are published nowhere; the defaults are ours.

    Settings:

    - `alpha`: how much saliency counts against relevance; with 1 no CLIP is asked;
    - `saliency_temperature`, `relevance_temperature`: of the two softmaxes;
    - `density`: how much it counts that a crop shows more of the image and less padding;
    - `low`, `high`: the encoder blocks that rank tokens in crops, and those in the thumbnail; two
      shares stand for all blocks between these parts of the depth, whole numbers for single blocks;
    - `fill`: hand out everything, which is ours: largest remainders, overflow to crops with room,
      then to the thumbnail;
    - `attention`: "received" takes for CLS attention what a token's patches receive, and for CLS
      the mean of a tile's patches behind the encoder; "auto" does so on encoders that have no CLS
      token, and regions have that mean anyhow;
    - `regions`: into so many parts by so many an image is cut where models take no crops; 1 leaves
      it whole. Nothing of the budget goes to their mean, which stands for a thumbnail, and all of
      it is handed out;
    - `clip`: a hub id or folder, "" the CLIP that the model's encoder came from; where that is no
      CLIP's, and none is named, saliency counts alone.
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
    attention: str = "auto"
    regions: int = 2
    clip: str = ""
    cuts: int = field(default=1, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_attention(self.attention)
        if self.regions < 1:
            raise ValueError(f"regions is {self.regions}; it is parts of a side, at least 1")
        if not (0 <= self.alpha <= 1 and 0 <= self.density <= 1):
            raise ValueError(
                f"alpha is {self.alpha} and density {self.density}; both are shares in 0..1"
            )
        if not (self.saliency_temperature > 0 and self.relevance_temperature > 0):
            temperatures = f"{self.saliency_temperature} and {self.relevance_temperature}"
            raise ValueError(f"temperatures are {temperatures}; they are above 0")
        for name, blocks in (("low", self.low), ("high", self.high)):
            if not _is_part(blocks) and not (blocks and _are_numbers(blocks)):
                raise ValueError(
                    f"{name} is {list(blocks)}; "
                    "it is blocks, [6, 9], or the part of the depth between two shares"
                )

    @property
    def summary(self) -> str:
        """What sums up a tile, in the words of `attention`: no CLS token is a region's."""
        return "received" if self.cuts > 1 else self.attention

    @property
    def asked(self) -> frozenset[Signal]:
        """What is read of a CLIP."""
        both = {Signal.CLIP_TEXT, Signal.CLIP_TILES}
        return frozenset(both) if self.alpha < 1 else frozenset()

    @property
    def needs(self) -> frozenset[Signal]:
        reads = attention_reads(self.attention) | summary_reads(self.summary)
        return reads.signals | self.asked

    @property
    def stand_ins(self) -> Mapping[Signal, Signal | None]:
        return {**attention_stand_ins(self.attention), **dict.fromkeys(sorted(self.asked))}

    @property
    def port(self) -> str:
        return REGIONS_PORT if self.cuts > 1 else ""

    def prepared(self, facts: Facts) -> Self:
        """Shares of the depth become numbers of blocks; a bare decoder has none to count."""
        if facts.vision_blocks is None:
            return self
        return replace(
            self,
            cuts=self.regions if facts.tiled is False else 1,
            low=_between(self.low, facts.vision_blocks),
            high=_between(self.high, facts.vision_blocks),
        )

    @property
    def reads(self) -> Reads:
        ranking = (*_whole(self.low), *_whole(self.high))
        reads = attention_reads(self.attention, ranking) | summary_reads(self.summary)
        return reads | Reads(self.asked, clip=self.clip, regions=self.cuts)

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        """Newlines at equal distances take at most half of what the stage keeps; images, and their
        tiles by `budgets`, share the rest.
        """
        tokens = in_regions(tokens, self.cuts)
        scores, visible = self.score(tokens), self.visible(tokens)
        newlines = tokens.newline.nonzero()[:, 0]
        most = min(len(newlines), stage.keep // 2)
        every = torch.arange(most) * len(newlines) // max(1, most)  # at equal distances
        kept = [newlines[every].to(scores.device)]
        for image, count in self._shared(tokens, stage.keep - most):
            budgets = self.budgets(tokens, image, visible, count)
            for number, budget in zip(image, budgets, strict=True):
                in_tile = _patches(tokens, number) & visible
                place = in_tile.nonzero()[:, 0].to(scores.device)
                kept.append(place[top(scores[place], budget)])
        return Keep(torch.cat(kept))

    def score(self, tokens: VisualTokens) -> Tensor:
        """[N] CLS attention behind a second softmax; 0 for newlines."""
        attention = encoder_attention(tokens)
        # blocks come in the order of `reads`: those for crops, then those for the thumbnail
        low = len(self.low)
        scores = attention.new_zeros(len(tokens))
        for number, tile in enumerate(tokens.tiles):
            place = _patches(tokens, number).nonzero()[:, 0].to(scores.device)
            of_blocks = attention[:low] if tile.kind == "crop" else attention[low:]
            # [blocks, heads, patches of the tile] before the mean
            scores[place] = of_blocks[..., place].softmax(dim=-1).mean(dim=(0, 1))
        return scores

    def visible(self, tokens: VisualTokens) -> Tensor:
        """[N] bool, on the CPU: False for tokens of a crop that lie in the padding."""
        visible = torch.ones(len(tokens), dtype=torch.bool)
        for number, tile in enumerate(tokens.tiles):
            if tile.kind != "crop" or tile.region is None:
                continue
            left, upper, right, lower = tile.region
            place = _patches(tokens, number)
            if not place.any():
                continue
            row_shows = _inside(tokens.row[place], tile.rows, upper, lower)
            column_shows = _inside(tokens.column[place], tile.columns, left, right)
            visible[place] = row_shows & column_shows
        return visible

    def budgets(
        self, tokens: VisualTokens, image: list[int], visible: Tensor, count: int
    ) -> list[int]:
        """How many of an image's `count` tokens each of its tiles gets, the thumbnail first."""
        room = _counts(tokens, image, visible)
        if len(image) == 1:
            return [count]
        weights = self.weigh(tokens, image, visible)["tile_weights"].double().cpu()
        thumbnail, _ = _split(tokens, image)
        if thumbnail is None:
            return filled(count, weights, room)
        # a token at least: there may be more tiles than tokens
        average = max(1, count // len(image))
        own = min(average, int(room[0]))
        if self.fill:
            parts = filled(count - own, weights, room[1:])
            return [count - sum(parts), *parts]
        whole = (weights * (count - own)).long()  # rounded down
        return [own, *torch.minimum(whole, room[1:]).tolist()]

    def weigh(self, tokens: VisualTokens, image: list[int], visible: Tensor) -> dict[str, Tensor]:
        """[K] the weights of an image's crops, and by name what they are made of."""
        thumbnail, crops = _split(tokens, image)
        cls = tile_summaries(tokens)[0]
        whole = [*crops] if thumbnail is None else [thumbnail]
        summary = cls[thumbnail] if thumbnail is not None else whole_summary(tokens, cls, crops)
        likeness = normalize(cls[crops], dim=-1) @ normalize(summary, dim=-1)
        saliency = (likeness / self.saliency_temperature).softmax(dim=0)
        values = {"tile_saliency": saliency}
        meaning = saliency
        if Signal.CLIP_TILES in tokens.signals and self.alpha < 1:
            pictures = normalize(tokens.clip_tiles.float(), dim=-1)
            text = normalize(tokens.clip_text.float(), dim=-1)[0]
            likeness = pictures[crops] @ text
            relevance = (likeness / self.relevance_temperature).softmax(dim=0)
            values["tile_relevance"] = relevance
            meaning = self.alpha * saliency + (1 - self.alpha) * relevance
        counts = _counts(tokens, crops, visible).to(cls.device)
        # nothing of a thumbnail is padding: a crop's share of its patches is how full the crop is
        filling = counts / sum(int(_patches(tokens, number).sum()) for number in whole)
        # the 1e-6 is the official code's: it decides where a budget is just below a whole number
        density = filling / (filling.sum() + 1e-6)
        values["tile_density"] = density
        values["tile_weights"] = self.density * density + (1 - self.density) * meaning
        return values

    def explain(self, tokens: VisualTokens, stage: Stage) -> dict[str, Tensor]:
        """Scores, and of every image with crops what their budgets come from, one image behind the
        other; newlines do not count here, as the official vectors have none.
        """
        tokens = in_regions(tokens, self.cuts)
        visible = self.visible(tokens)
        of_images: dict[str, list[Tensor]] = {}
        for image, count in self._shared(tokens, stage.keep):
            if len(image) == 1:
                continue
            _, crops = _split(tokens, image)
            values = self.weigh(tokens, image, visible)
            budgets = self.budgets(tokens, image, visible, count)
            values["budgets"] = torch.tensor(budgets[len(image) - len(crops) :])
            valid = [visible[_patches(tokens, number)] for number in crops]
            values["tile_valid"] = torch.cat(valid)
            for name, value in values.items():
                of_images.setdefault(name, []).append(value)
        joined = {name: torch.cat(parts) for name, parts in of_images.items()}
        return {"scores": self.score(tokens), **joined}

    @staticmethod
    def _shared(tokens: VisualTokens, total: int) -> Iterator[tuple[list[int], int]]:
        """Images and frames as their tiles' numbers, the thumbnail's first, with their part of the
        tokens, by size.
        """
        views: dict[tuple[int, int], list[int]] = {}
        for number, tile in enumerate(tokens.tiles):
            if _patches(tokens, number).any():  # no newline alone
                views.setdefault((tile.image, tile.frame), []).append(number)
        images, sizes = list(views.values()), []
        for image in images:
            # stable, and False comes first: the thumbnail, then the crops in their order
            image.sort(key=lambda number: tokens.tiles[number].kind == "crop")
            patches = [int(_patches(tokens, number).sum()) for number in image]
            sizes.append(sum(patches))
        for image, part in zip(images, share(total, torch.tensor(sizes)), strict=True):
            if part > 0:
                yield image, part


def _split(tokens: VisualTokens, image: list[int]) -> tuple[int | None, list[int]]:
    """An image's thumbnail, None where it has crops alone, and its crops."""
    first, *others = image
    return (None, image) if tokens.tiles[first].kind == "crop" else (first, others)


def _patches(tokens: VisualTokens, number: int) -> Tensor:
    """[N] bool: the tokens of a tile, without newlines."""
    return (tokens.tile == number) & ~tokens.newline


def _counts(tokens: VisualTokens, tiles: Sequence[int], visible: Tensor) -> Tensor:
    """[len(tiles)] how many tokens of each show the image."""
    counts = []
    for number in tiles:
        shows_image = _patches(tokens, number) & visible
        counts.append(int(shows_image.sum()))
    return torch.tensor(counts)


def _inside(line: Tensor, lines: int, start: float, end: float) -> Tensor:
    """[n] bool: whether the lines of a tile that spans start..end of the image's side show the
    image.

    As the official code cuts: of an image that is h lines long, floor(h) in the middle, the smaller
    margin before them. Its k-th line has its centre at k + 1/2 or at k, plus half of what floor
    takes from h; a quarter tells the two apart.
    """
    length = lines / (end - start)
    # 1e-6: a quotient that is whole may come out just below
    whole = int(length + 1e-6)
    centre = start * length + line.double() + 0.5
    number = (centre - max(0.0, length - whole) / 2 + 0.25).floor()
    return (number >= 0) & (number < whole)


def _between(blocks: Blocks, depth: int) -> Blocks:
    """The blocks between two shares of the depth, at least one; numbers stay."""
    # (0, 1) are two blocks; the whole depth is (0.0, 1.0)
    if _are_numbers(blocks):
        return blocks
    first, end = (int(block * depth) for block in blocks)
    first = min(first, depth - 1)
    return tuple(range(first, max(first + 1, end)))


def _are_numbers(blocks: Blocks) -> bool:
    """Whether these are numbers of blocks, and no shares of the depth."""
    return all(type(block) is int for block in blocks)


def _is_part(blocks: Blocks) -> bool:
    """Whether these are two shares of the depth, the lower one first."""
    return len(blocks) == 2 and 0 <= blocks[0] < blocks[1] <= 1


def _whole(blocks: Blocks) -> tuple[int, ...]:
    """The numbers of the blocks; raises ValueError where they are still shares."""
    if not _are_numbers(blocks):
        raise ValueError(
            f"blocks {list(blocks)} are shares of a depth that is not known yet: "
            "prepared() turns them into numbers"
        )
    return tuple(int(block) for block in blocks)
