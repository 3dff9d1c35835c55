"""PTP (TCSVT 2025): crops share the budget by their likeness to the whole; in each, what encoder
and question look at stays.
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
    Site,
    Stage,
    VisualTokens,
    fill,
    llm,
    register,
    tile_places,
    top,
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
    - ours: an image without crops, and a video as a whole, is one region and so a plain ranking;
      images share by size; newline tokens have no patch and survive only behind all that have.

    Settings:

    - `layer`: counted from 0, the one whose text attention is read; 2 stands for the nearest that
      attends, where not all do;
    - `alpha`: how much the question counts against the encoder;
    - `temperature`: of the shares of the crops;
    - `attention`: "received", for encoders without a CLS token, takes for b the attention that j's
      patches receive from all others, and for CLS the mean of a tile's patches behind the encoder.
    """

    own_share = 0.5
    layer: int = 2
    alpha: float = 0.5
    temperature: float = 0.1
    attention: str = "cls"

    def __post_init__(self) -> None:
        if self.attention not in ("cls", "received"):
            raise ValueError(f"attention is {self.attention!r}; it is 'cls' or 'received'")
        if self.layer < 0:
            raise ValueError(f"layer is {self.layer}; layers count from 0")
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha is {self.alpha}; it lies in 0..1")
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}; it is above 0")

    @property
    def needs(self) -> frozenset[Signal]:
        signals = {Signal.TEXT_ATTENTION}
        if self.attention == "cls":
            signals |= {Signal.CLS_ATTENTION, Signal.CLS_FEATURES}
        else:
            signals |= {Signal.RECEIVED_ATTENTION, Signal.ENCODER_FEATURES}
        return frozenset(signals)

    def prepared(self, facts: Facts) -> Self:
        if self.layer != PTP.layer:
            return self
        return replace(self, layer=facts.attending_near(self.layer, last=facts.layers - 2))

    def site(self) -> Site:
        return llm(before=self.layer + 1)

    @property
    def reads(self) -> Reads:
        return Reads(self.needs, blocks={Signal.CLS_FEATURES: (-1,)})

    def score(self, tokens: VisualTokens) -> Tensor:
        """[N] saliency and importance mixed; 0 for newlines."""
        of_cls = self.attention == "cls"
        attention = tokens.cls_attention if of_cls else tokens.received_attention  # [B, H, N]
        saliency = _stretched(tokens, attention.float().mean(dim=(0, 1)))
        paid = tokens.text_attention.float().mean(dim=0)  # [Q, N]
        # text between images is blind to the last of them, and would stand out for the one it
        # follows
        paid = torch.where(paid[:, -1:] > 0, paid, 0.0)
        importance = _stretched(tokens, paid.amax(dim=0)).to(saliency.device)
        return (1 - self.alpha) * saliency + self.alpha * importance

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        """The highest in every region; newlines fill what regions cannot hold."""
        scores = self.score(tokens)
        kept = []
        for region, count in self.regions(tokens, stage.keep):
            kept.append(region[top(scores[region], count)])
        rest = stage.keep - sum(len(places) for places in kept)
        newlines = tokens.newline.nonzero()[:, 0].to(scores.device)
        return Keep(torch.cat([*kept, newlines[:rest]]))

    def regions(self, tokens: VisualTokens, total: int) -> Iterator[tuple[Tensor, int]]:
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
        if thumbnail is None:  # nothing to compare with: crops share by size
            return torch.tensor([float(len(tokens.tiles[number])) for number in crops])
        unit = normalize(self.summaries(tokens), dim=-1)
        return (unit[crops] @ unit[thumbnail] / self.temperature).softmax(dim=0)

    def summaries(self, tokens: VisualTokens) -> Tensor:
        """[T, D_v] what stands for a tile."""
        if self.attention == "cls":
            return tokens.cls_features[0].float()
        features = tokens.encoder_features[0].float()
        patches = tile_places(tokens, newlines=False)
        # means but for their length, which a cosine does not see
        return torch.stack([features[place].sum(dim=0) for place in patches])


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
