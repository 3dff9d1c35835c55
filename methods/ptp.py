"""PTP (TCSVT 2025): crops share the budget by their likeness to the whole; in each, what encoder
and question look at stays.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from prunebench import (
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
    top,
)


@register(paper="https://arxiv.org/abs/2509.15704", reconstruction=True)
@dataclass(frozen=True)
class PTP(ScorePruner):
    """Score token j by F_j = (1 - alpha) b_j + alpha I_j, both min-max scaled over its tile, and
    rank within regions.

    b_j is the attention the tile's CLS token pays to j in the block the projector reads, averaged
    over heads; I_j the most that any text token behind the last image pays to it in layer `layer`,
    averaged over heads. Tokens leave behind that layer. The thumbnail keeps the same share as the
    crops together; crop k of these gets its share rho_k, the softmax over the crops of cos(CLS_k,
    CLS_thumbnail) / `temperature`, and what it cannot hold goes to the others.

    The paper's are the three signals and that salient regions keep more; no code is published.
    `layer` 2 (from 0), the maximum over text tokens and `alpha` 0.5 are known second hand; the
    formula of rho, its `temperature`, the scaling, the thumbnail's share and the place of removal
    are reconstructed. Ours: an image without crops, and a video as a whole, is one region and so a
    plain ranking; images share by size; newline tokens have no patch and survive only behind all
    that have.

    `attention="received"`, for encoders without a CLS token, takes for b the attention that j's
    patches receive from all others, and for CLS the mean of a tile's patches behind the encoder.
    """

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
        cls = self.attention == "cls"
        seen = (
            {Signal.CLS_ATTENTION, Signal.CLS_FEATURES}
            if cls
            else {Signal.RECEIVED_ATTENTION, Signal.ENCODER_FEATURES}
        )
        return frozenset({Signal.TEXT_ATTENTION, *seen})

    def site(self) -> Site:
        return llm(before=self.layer + 1)

    @property
    def reads(self) -> Reads:
        return Reads(self.needs, blocks={Signal.CLS_FEATURES: (-1,)})

    def score(self, tokens: VisualTokens) -> Tensor:
        """[N] saliency and importance mixed; 0 for newlines."""
        seen = tokens.cls_attention if self.attention == "cls" else tokens.received_attention
        paid = tokens.text_attention.float().mean(dim=0)
        # text between images is blind to the last of them, and would stand out for the one it
        # follows
        asked = torch.where(paid[:, -1:] > 0, paid, 0.0).amax(dim=0)
        salient, asked = (
            _stretched(tokens, seen.float().mean(dim=(0, 1))),
            _stretched(tokens, asked),
        )
        return (1 - self.alpha) * salient + self.alpha * asked.to(salient.device)

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        scores = self.score(tokens)
        kept = [
            region[top(scores[region], count)] for region, count in self.regions(tokens, stage.keep)
        ]
        ends = tokens.layout.newline[tokens.index].nonzero()[:, 0].to(scores.device)
        return Keep(torch.cat([*kept, ends[: stage.keep - sum(map(len, kept))]]))

    def regions(self, tokens: VisualTokens, total: int) -> Iterator[tuple[Tensor, int]]:
        """Places of tokens that are ranked together, and how many of them stay."""
        patches = _patches(tokens)
        views: dict[tuple[int, str], list[int]] = {}
        for number, tile in enumerate(tokens.tiles):
            views.setdefault((tile.image, tile.kind), []).append(number)
        sizes = torch.tensor([sum(len(patches[i]) for i in view) for view in views.values()])
        for ((image, kind), view), count in zip(
            views.items(), fill(total, sizes, sizes), strict=True
        ):
            if kind == "crop":
                limits = torch.tensor([len(patches[i]) for i in view])
                yield from zip(
                    (patches[i] for i in view),
                    fill(count, self.saliency(tokens, image, view), limits),
                    strict=True,
                )
            else:
                yield torch.cat([patches[i] for i in view]), count

    def saliency(self, tokens: VisualTokens, image: int, crops: list[int]) -> Tensor:
        """[K] the shares rho of an image's crops."""
        whole = [
            i
            for i, tile in enumerate(tokens.tiles)
            if tile.kind == "thumbnail" and tile.image == image
        ]
        if not whole:
            return torch.tensor([float(len(tokens.tiles[i])) for i in crops])
        unit = normalize(self.summaries(tokens), dim=-1)
        return (unit[crops] @ unit[whole[0]] / self.temperature).softmax(dim=0)

    def summaries(self, tokens: VisualTokens) -> Tensor:
        """[T, D_v] what stands for a tile."""
        if self.attention == "cls":
            return tokens.cls_features[0].float()
        features = tokens.encoder_features[0].float()
        return torch.stack([features[place].sum(dim=0) for place in _patches(tokens)])


def _patches(tokens: VisualTokens) -> list[Tensor]:
    """Per tile, the places of its tokens that have a patch."""
    tile, newline = (of[tokens.index] for of in (tokens.layout.tile, tokens.layout.newline))
    device = tokens.features.device
    return [
        ((tile == number) & ~newline).nonzero()[:, 0].to(device)
        for number in range(len(tokens.tiles))
    ]


def _stretched(tokens: VisualTokens, values: Tensor) -> Tensor:
    """[N] `values` min-max scaled over the patches of every tile; 0 where these are all equal, and
    for newlines.
    """
    found = torch.zeros_like(values)
    for place in _patches(tokens):
        if len(place):
            low, high = values[place].aminmax()
            found[place] = (values[place] - low) / (high - low).clamp(
                min=torch.finfo(torch.float32).tiny
            )
    return found
