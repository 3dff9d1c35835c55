"""PTP (TCSVT 2025): crops share the budget by their likeness to the whole; in each, what encoder
and question look at stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
    Site,
    Stage,
    VisualTokens,
    attention_reads,
    attention_stand_ins,
    check_attention,
    encoder_attention,
    fill,
    in_regions,
    llm,
    register,
    summary_reads,
    tile_places,
    tile_summaries,
    top,
    whole_summary,
)


@register(paper="https://arxiv.org/abs/2509.15704", reconstruction=True)
@dataclass(frozen=True)
class PTP(ScorePruner):
    """Score token j by F_j = (1 - alpha) b_j + alpha I_j, both min-max scaled over its tile, and
    rank within regions.

    b_j is the attention the tile's CLS token pays to j in the block the projector reads, averaged
    over heads. I_j is the most that any text token behind the last image pays to it in layer
    `layer`, averaged over heads. Tokens leave behind that layer. The thumbnail keeps the same share
    as the crops together; crop k of these gets its share rho_k, the softmax over the crops of
    cos(CLS_k, CLS_thumbnail) / `temperature`, and what it cannot hold goes to the others.

    No code is published. What of this is known, and how:

    - the paper's are the three signals and that salient regions keep more;
    - `layer` 2, the maximum over text tokens, `alpha` 0.5 and half of the tokens as its own
      operating point are known second hand;
    - reconstructed are the formula of rho, its `temperature`, the scaling, the thumbnail's share
      and the place of removal;
    - ours: an image that its model does not cut, and a video as a whole, is one region and so a
      plain ranking; models that take no crops have `regions` in their place; images share by size;
      newline tokens have no patch and survive only behind all that have.

    Settings:

    - `layer`: counted from 0, the one whose text attention is read; 2 stands for the nearest that
      attends, where not all do;
    - `alpha`: how much the question counts against the encoder;
    - `temperature`: of the shares of the crops;
    - `attention`: "received" takes for b the attention that j's patches receive from all others,
      and for CLS the mean of a tile's patches behind the encoder; "auto" does so on encoders that
      have no CLS token;
    - `regions`: into so many parts by so many an image is cut where models take no crops; 1 leaves
      it whole.
    """

    own_share = 0.5
    layer: int = 2
    alpha: float = 0.5
    temperature: float = 0.1
    attention: str = "auto"
    regions: int = 2
    cuts: int = field(default=1, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_attention(self.attention)
        if self.layer < 0:
            raise ValueError(f"layer is {self.layer}; layers count from 0")
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha is {self.alpha}; it lies in 0..1")
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}; it is above 0")
        if self.regions < 1:
            raise ValueError(f"regions is {self.regions}; it is parts of a side, at least 1")

    @property
    def stand_ins(self) -> Mapping[Signal, Signal]:
        return attention_stand_ins(self.attention)

    @property
    def port(self) -> str:
        return REGIONS_PORT if self.cuts > 1 else ""

    def prepared(self, facts: Facts) -> Self:
        """The layer that attends, and regions on models without crops."""
        cuts = self.regions if facts.tiled is False else 1
        if self.layer != PTP.layer:
            return replace(self, cuts=cuts)
        layer = facts.attending_near(self.layer, last=facts.layers - 2)
        return replace(self, layer=layer, cuts=cuts)

    def site(self) -> Site:
        return llm(before=self.layer + 1)

    @property
    def reads(self) -> Reads:
        text = Reads(frozenset({Signal.TEXT_ATTENTION}))
        # no CLS token is a region's
        summary = "received" if self.cuts > 1 else self.attention
        return text | attention_reads(self.attention) | summary_reads(summary)

    def score(self, tokens: VisualTokens) -> Tensor:
        """[N] saliency and importance mixed; 0 for newlines."""
        saliency = _stretched(tokens, encoder_attention(tokens).mean(dim=(0, 1)))
        paid = tokens.text_attention.float().mean(dim=0)  # [Q, N]
        # text between images is blind to the last of them, and would stand out for the one it
        # follows
        paid = torch.where(paid[:, -1:] > 0, paid, 0.0)
        importance = _stretched(tokens, paid.amax(dim=0)).to(saliency.device)
        return (1 - self.alpha) * saliency + self.alpha * importance

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        """The highest in every region; newlines fill what regions cannot hold."""
        tokens = in_regions(tokens, self.cuts)
        scores = self.score(tokens)
        kept = []
        for region, count in self.groups(tokens, stage.keep):
            kept.append(region[top(scores[region], count)])
        rest = stage.keep - sum(len(places) for places in kept)
        newlines = tokens.newline.nonzero()[:, 0].to(scores.device)
        return Keep(torch.cat([*kept, newlines[:rest]]))

    def groups(self, tokens: VisualTokens, total: int) -> Iterator[tuple[Tensor, int]]:
        """Places of tokens that are ranked together, and how many of them stay."""
        patches = tile_places(tokens, newlines=False)
        views: dict[tuple[int, str], list[int]] = {}
        for number, tile in enumerate(tokens.tiles):
            views.setdefault((tile.image, tile.kind), []).append(number)
        sizes = []
        for view in views.values():
            sizes.append(sum(len(patches[number]) for number in view))
        limits = torch.tensor(sizes)
        # weights and limits alike: every view keeps the same share of itself
        counts = fill(total, limits, limits)
        for ((image, kind), view), count in zip(views.items(), counts, strict=True):
            regions = [patches[number] for number in view]
            if kind != "crop":
                yield torch.cat(regions), count
                continue
            limits = torch.tensor([len(region) for region in regions])
            parts = fill(count, self.saliency(tokens, image, view), limits)
            yield from zip(regions, parts, strict=True)

    def saliency(self, tokens: VisualTokens, image: int, crops: list[int]) -> Tensor:
        """[K] the shares rho of an image's crops."""
        thumbnail = None
        for number, tile in enumerate(tokens.tiles):
            if thumbnail is None and tile.kind == "thumbnail" and tile.image == image:
                thumbnail = number
        if thumbnail is None and self.cuts == 1:  # nothing to compare with: crops share by size
            return torch.tensor([float(len(tokens.tiles[number])) for number in crops])
        summaries = tile_summaries(tokens)[0]
        whole = whole_summary(tokens, summaries, crops if thumbnail is None else [thumbnail])
        likeness = normalize(summaries[crops], dim=-1) @ normalize(whole, dim=-1)
        return (likeness / self.temperature).softmax(dim=0)


def _stretched(tokens: VisualTokens, values: Tensor) -> Tensor:
    """[N] `values` min-max scaled over the patches of every tile; 0 where these are all equal, and
    for newlines.
    """
    stretched = torch.zeros_like(values)
    # the least float, not a larger epsilon: attention may differ by very little and still rank
    tiny = torch.finfo(torch.float32).tiny
    for place in tile_places(tokens, newlines=False):
        if len(place):
            own = values[place]
            low, high = own.aminmax()
            stretched[place] = (own - low) / (high - low).clamp(min=tiny)
    return stretched
