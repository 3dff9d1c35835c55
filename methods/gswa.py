"""GSWA (2025): crops share the budget by how much of the image's meaning they carry; any scorer
chooses inside them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, normalize, scaled_dot_product_attention

from prunebench import (
    REGIONS_PORT,
    Budget,
    Example,
    Facts,
    Keep,
    Reads,
    ScorePruner,
    Signal,
    Site,
    Stage,
    Trained,
    Unsupported,
    VisualTokens,
    attention_stand_ins,
    build,
    check_attention,
    fill,
    in_regions,
    register,
    summary_reads,
    tile_places,
    tile_summaries,
    top_of_each,
    whole_summary,
)

BLOCKS, HEADS, CHANNELS = 2, 4, 256
"""Sizes of the allocator; the widths of small encoders bound the last."""


@register(
    paper="https://arxiv.org/abs/2501.14276",
    reconstruction=True,
    variant="splits a token budget; the paper's scales the crops' features, and drops nothing",
)
@dataclass(frozen=True)
class GSWA(Trained):
    """Give the thumbnail 1 part of the budget and crop k of K its weight w_k K; in each keep the
    highest by `scorer`.

    The paper's idea: crops that are closer to the whole image in meaning hold more of what is
    needed. Its Global Semantic-guided Weight Allocator is a linear map and transformer blocks over
    the tiles' CLS tokens, whose self-attention is read as weights. The question is not asked.

    There is neither code nor a formula. Ours are:

    - the allocator's sizes;
    - the read-out: what the thumbnail pays the crops in a last attention, averaged over heads and
      normalised over the crops;
    - the use of the weights for budgets, with what a crop cannot hold going to the others;
    - training on where the evidence lies;
    - weights without training: the softmax over the crops of their CLS tokens' cosine to the
      thumbnail's.

    Settings:

    - `scorer`: any method that scores tokens, with its own defaults and site;
    - `temperature`: of the softmax without training;
    - `attention`: "received" takes for CLS the mean of a tile's patches behind the encoder; "auto"
      does so on encoders that have no CLS token; the scorer has a default of its own;
    - `regions`: into so many parts by so many an image is cut where models take no crops, whose
      mean stands for the thumbnail and gets nothing; 1 leaves it whole. Images share by size there;
    - `weights`: "none" asks for the form without training, and "" falls back on it where a model
      has no weights.
    """

    default_positions = "compact"
    optional = True
    scorer: str = "fastervlm"
    temperature: float = 0.05
    attention: str = "auto"
    regions: int = 2
    scoring: ScorePruner | None = field(default=None, repr=False, compare=False)
    cuts: int = field(default=1, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_attention(self.attention)
        if self.regions < 1:
            raise ValueError(f"regions is {self.regions}; it is parts of a side, at least 1")
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}; it is above 0")
        _ = self.inner  # there is no such method, or it gives no scores

    @property
    def inner(self) -> ScorePruner:
        """The method that scores tokens."""
        if self.scoring is not None:
            return self.scoring
        scorer = build(self.scorer)
        if not isinstance(scorer, ScorePruner):
            raise ValueError(
                f"scorer {self.scorer!r} gives tokens no scores; "
                "it is a method that ranks them, like 'fastervlm'"
            )
        return scorer

    @property
    def needs(self) -> frozenset[Signal]:
        return self.inner.needs | self.whole.signals

    @property
    def whole(self) -> Reads:
        """What is read of tiles as a whole; no CLS token is a region's."""
        return summary_reads("received" if self.cuts > 1 else self.attention)

    @property
    def stand_ins(self) -> Mapping[Signal, Signal | None]:
        return {**self.inner.stand_ins, **attention_stand_ins(self.attention)}

    @property
    def port(self) -> str:
        own = REGIONS_PORT if self.cuts > 1 else ""
        texts = [text for text in (self.inner.port, own) if text]
        return "; ".join(dict.fromkeys(texts))  # the scorer may say the same

    @property
    def reads(self) -> Reads:
        return self.inner.reads | self.whole

    def site(self) -> Site:
        return self.inner.site()

    def plan(self, budget: Budget | None, available: int, layers: int) -> tuple[Stage, ...]:
        """That of the scorer, which decides where tokens leave."""
        return self.inner.plan(budget, available, layers)

    def prepared(self, facts: Facts) -> Self:
        """The scorer is made ready, too."""
        cuts = self.regions if facts.tiled is False else 1
        ready = replace(self, scoring=self.inner.prepared(facts), cuts=cuts)
        # not super(): it is the copy with the ready scorer that takes the weights
        return Trained.prepared(ready, facts)

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        """The scorer's highest in every tile, as many as the tile's part of the budget."""
        scores = self.inner.score(tokens)
        tokens = in_regions(tokens, self.cuts)
        room = torch.bincount(tokens.tile, minlength=len(tokens.tiles))
        counts = fill(stage.keep, self.parts(tokens), room)
        return Keep(top_of_each(scores, tile_places(tokens), counts))

    def parts(self, tokens: VisualTokens) -> Tensor:
        """[T] the budget of every tile as a multiple of the average over its image; on regions
        times the size of that.
        """
        # 1, the average, stays for thumbnails and for images without crops
        parts = torch.ones(len(tokens.tiles))
        if self.cuts > 1:
            parts = torch.bincount(tokens.tile, minlength=len(tokens.tiles)).float()
        for thumbnail, crops in _images(tokens):
            weights = self.weigh(tokens, thumbnail, crops).detach().float().cpu()
            parts[crops] = weights * parts[crops].sum()
        return parts

    def weigh(self, tokens: VisualTokens, thumbnail: int | None, crops: list[int]) -> Tensor:
        """[K] the weights of an image's crops, which add up to 1."""
        cls = tile_summaries(tokens)[0]
        whole = whole_summary(tokens, cls, crops) if thumbnail is None else cls[thumbnail]
        if self.module is not None:
            allocator = self.module.to(cls.device)
            weights: Tensor = allocator(torch.cat([whole[None], cls[crops]]))
            return weights
        unit = normalize(cls[crops], dim=-1)
        return (unit @ normalize(whole, dim=-1) / self.temperature).softmax(dim=0)

    def explain(self, tokens: VisualTokens, stage: Stage) -> dict[str, Tensor]:
        """[N] the scorer's scores, and [T] the parts of the tiles."""
        parts = self.parts(in_regions(tokens, self.cuts))
        return {"scores": self.inner.score(tokens), "tile_parts": parts}

    # ---- weights ---------------------------------------------------------------------------------

    @classmethod
    def sizes(cls, facts: Facts) -> dict[str, Any]:
        """Small encoders bound the channels, which the heads divide."""
        if facts.vision_width is None:
            raise Unsupported("gswa reads the vision encoder; a bare decoder has none")
        channels = max(HEADS, min(CHANNELS, facts.vision_width // HEADS * HEADS))
        return {
            "vision_width": facts.vision_width,
            "channels": channels,
            "blocks": BLOCKS,
            "attention_heads": HEADS,
        }

    @classmethod
    def build(cls, sizes: Mapping[str, Any]) -> nn.Module:
        return _Allocator(sizes)

    def loss(self, example: Example) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy between the weights and where the evidence lies, averaged over images whose
        crops show some.

        `hit` is the share of these whose heaviest crop shows the most, `even` the loss of equal
        weights.
        """
        if self.module is None:
            raise ValueError(
                "gswa has no weights to train: prepared() brings them, weights='random' fresh ones"
            )
        tokens = in_regions(example.tokens, self.cuts)
        evidence = torch.zeros(len(tokens.tiles))  # tokens of every tile that show some
        evidence = evidence.index_add(0, tokens.tile, example.target.float().cpu())
        losses: list[Tensor] = []
        hits: list[float] = []
        even: list[float] = []
        for thumbnail, crops in _images(tokens):
            total = evidence[crops].sum()
            if total == 0:
                continue
            weights = self.weigh(tokens, thumbnail, crops)
            target = (evidence[crops] / total).to(weights)
            losses.append(-(target * weights.clamp(min=1e-9).log()).sum())
            # of crops that show equally much any is a hit
            hits.append(float(target[weights.argmax()] == target.max()))
            even.append(float(torch.tensor(len(crops)).log()))
        if not losses:  # nothing to learn from, but something to differentiate
            sums = [weight.sum() for weight in self.module.parameters()]
            return torch.stack(sums).sum() * 0.0, {}
        loss = torch.stack(losses).mean()
        figures = {
            "tile_loss": float(loss.detach()),
            "hit": sum(hits) / len(hits),
            "even": sum(even) / len(even),
        }
        return loss, figures


def _images(tokens: VisualTokens) -> Iterator[tuple[int | None, list[int]]]:
    """Of every image that comes in crops, the numbers of its thumbnail, None for none, and of
    these.
    """
    crops_of: dict[int, list[int]] = {}
    thumbnails: dict[int, int] = {}
    for number, tile in enumerate(tokens.tiles):
        if tile.kind == "crop":
            crops_of.setdefault(tile.image, []).append(number)
        elif tile.kind == "thumbnail":
            thumbnails[tile.image] = number
    for image, crops in crops_of.items():
        yield thumbnails.get(image), crops


class _Allocator(nn.Module):
    """From the CLS tokens of a thumbnail and K crops to the weights of the crops."""

    def __init__(self, sizes: Mapping[str, Any]) -> None:
        super().__init__()
        width, channels = int(sizes["vision_width"]), int(sizes["channels"])
        self.heads = int(sizes["attention_heads"])
        if self.heads < 1 or channels % self.heads:
            raise ValueError(f"attention_heads is {self.heads}; it divides the {channels} channels")
        self.enter = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, channels))
        self.blocks = nn.ModuleList(
            _Block(channels, self.heads) for _ in range(int(sizes["blocks"]))
        )
        self.norm = nn.LayerNorm(channels)
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)

    def forward(self, cls: Tensor) -> Tensor:
        """[K] weights from [1 + K, D_v], the thumbnail first."""
        hidden = self.enter(cls)
        for block in self.blocks:
            hidden = block(hidden)
        hidden = self.norm(hidden)
        query = _split(self.query(hidden[:1]), self.heads)
        key = _split(self.key(hidden), self.heads)
        logits = query @ key.transpose(1, 2) * key.shape[-1] ** -0.5  # [heads, 1, 1 + K]
        attention: Tensor = logits.softmax(dim=-1).mean(dim=0)
        paid = attention[0, 1:]
        # without what the thumbnail pays itself the rest adds up to less than 1
        return paid / paid.sum().clamp(min=1e-9)


class _Block(nn.Module):
    """Attention among tiles, then an MLP; normalised before."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.attend = nn.Linear(channels, 3 * channels)
        self.leave = nn.Linear(channels, channels)
        self.widen = nn.Linear(channels, 4 * channels)
        self.narrow = nn.Linear(4 * channels, channels)

    def forward(self, hidden: Tensor) -> Tensor:
        parts = self.attend(self.norm1(hidden)).chunk(3, dim=-1)
        query, key, value = (_split(part, self.heads) for part in parts)
        attended = scaled_dot_product_attention(query[None], key[None], value[None])[0]
        hidden = hidden + self.leave(attended.transpose(0, 1).flatten(1))
        wide = gelu(self.widen(self.norm2(hidden)))
        after: Tensor = hidden + self.narrow(wide)
        return after


def _split(values: Tensor, heads: int) -> Tensor:
    """[heads, n, d] of [n, heads * d]."""
    return values.view(len(values), heads, -1).transpose(0, 1)
