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
    build,
    fill,
    register,
    top,
)

BLOCKS, HEADS, CHANNELS = 2, 4, 256
"""Sizes of the allocator; the widths of small encoders bound the last."""

OWN_READS = Reads(
    frozenset({Signal.TILES, Signal.CLS_FEATURES}), blocks={Signal.CLS_FEATURES: (-1,)}
)
"""What the method reads beside what its scorer does."""


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
    the tiles' CLS tokens, whose self-attention is read as weights; there is neither code nor a
    formula. Ours are its sizes, the read-out (what the thumbnail pays the crops in a last
    attention, averaged over heads, normalised over the crops), the use of the weights for budgets,
    with what a crop cannot hold going to the others, and training on where the evidence lies. The
    question is not asked.

    Without weights, w is the softmax over the crops of their CLS tokens' cosine to the thumbnail's,
    by `temperature`: what `weights` "none" asks for, and what "" falls back on where a model has
    none. `scorer` is any method that scores tokens, with its own defaults and site.
    """

    default_positions = "compact"
    optional = True
    scorer: str = "fastervlm"
    temperature: float = 0.05
    scoring: ScorePruner | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}; it is above 0")
        _ = self.inner  # there is no such method, or it gives no scores

    @property
    def inner(self) -> ScorePruner:
        """The method that scores tokens."""
        if self.scoring is not None:
            return self.scoring
        made = build(self.scorer)
        if not isinstance(made, ScorePruner):
            raise ValueError(
                f"scorer {self.scorer!r} gives tokens no scores; it is a method that ranks them, like 'fastervlm'"
            )
        return made

    @property
    def needs(self) -> frozenset[Signal]:
        return self.inner.needs | OWN_READS.signals

    @property
    def reads(self) -> Reads:
        return self.inner.reads | OWN_READS

    def site(self) -> Site:
        return self.inner.site()

    def plan(self, budget: Budget | None, available: int, layers: int) -> tuple[Stage, ...]:
        return self.inner.plan(budget, available, layers)

    def prepared(self, facts: Facts) -> Self:
        ready = replace(self, scoring=self.inner.prepared(facts))
        return Trained.prepared(ready, facts)

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        scores, kept = self.inner.score(tokens), list[Tensor]()
        tile = tokens.layout.tile[tokens.index]
        room = torch.bincount(tile, minlength=len(tokens.tiles))
        for number, count in enumerate(fill(stage.keep, self.parts(tokens), room)):
            place = (tile == number).nonzero()[:, 0].to(scores.device)
            kept.append(place[top(scores[place], count)])
        return Keep(torch.cat(kept))

    def parts(self, tokens: VisualTokens) -> Tensor:
        """[T] the budget of every tile as a multiple of the average over its image."""
        found = torch.ones(len(tokens.tiles))
        for thumbnail, crops in _images(tokens):
            found[crops] = self.weigh(tokens, thumbnail, crops).detach().float().cpu() * len(crops)
        return found

    def weigh(self, tokens: VisualTokens, thumbnail: int, crops: list[int]) -> Tensor:
        """[K] the weights of an image's crops, which add up to 1."""
        cls = tokens.cls_features[0].float()
        if self.module is not None:
            weights: Tensor = self.module.to(cls.device)(cls[[thumbnail, *crops]])
            return weights
        unit = normalize(cls, dim=-1)
        return (unit[crops] @ unit[thumbnail] / self.temperature).softmax(dim=0)

    def explain(self, tokens: VisualTokens, stage: Stage) -> dict[str, Tensor]:
        return {"scores": self.inner.score(tokens), "tile_parts": self.parts(tokens)}

    # ---- weights ---------------------------------------------------------------------------------

    @classmethod
    def sizes(cls, facts: Facts) -> dict[str, Any]:
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
        tokens = example.tokens
        tile = tokens.layout.tile[tokens.index]
        shown = torch.zeros(len(tokens.tiles)).index_add(0, tile, example.target.float().cpu())
        losses, hits, even = list[Tensor](), list[float](), list[float]()
        for thumbnail, crops in _images(tokens):
            if shown[crops].sum() > 0:
                weights = self.weigh(tokens, thumbnail, crops)
                wanted = (shown[crops] / shown[crops].sum()).to(weights)
                losses.append(-(wanted * weights.clamp(min=1e-9).log()).sum())
                hits.append(float(wanted[weights.argmax()] == wanted.max()))
                even.append(float(torch.tensor(len(crops)).log()))
        if not losses:  # nothing to learn from, but something to differentiate
            return torch.stack(
                [weight.sum() for weight in self.module.parameters()]
            ).sum() * 0.0, {}
        loss = torch.stack(losses).mean()
        figures = {
            "tile_loss": float(loss.detach()),
            "hit": sum(hits) / len(hits),
            "even": sum(even) / len(even),
        }
        return loss, figures


def _images(tokens: VisualTokens) -> Iterator[tuple[int, list[int]]]:
    """Of every image that comes as a thumbnail and crops, the numbers of these tiles."""
    for number, tile in enumerate(tokens.tiles):
        if tile.kind == "thumbnail":
            crops = [
                i
                for i, other in enumerate(tokens.tiles)
                if other.kind == "crop" and other.image == tile.image
            ]
            if crops:
                yield number, crops


class _Allocator(nn.Module):
    """From the CLS tokens of a thumbnail and K crops to the weights of the crops."""

    def __init__(self, sizes: Mapping[str, Any]) -> None:
        super().__init__()
        width, channels, self.heads = (
            int(sizes["vision_width"]),
            int(sizes["channels"]),
            int(sizes["attention_heads"]),
        )
        if self.heads < 1 or channels % self.heads:
            raise ValueError(f"attention_heads is {self.heads}; it divides the {channels} channels")
        self.enter = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, channels))
        self.blocks = nn.ModuleList(
            _Block(channels, self.heads) for _ in range(int(sizes["blocks"]))
        )
        self.norm = nn.LayerNorm(channels)
        self.query, self.key = nn.Linear(channels, channels), nn.Linear(channels, channels)

    def forward(self, cls: Tensor) -> Tensor:
        """[K] weights from [1 + K, D_v], the thumbnail first."""
        hidden = self.enter(cls)
        for block in self.blocks:
            hidden = block(hidden)
        hidden = self.norm(hidden)
        query, key = (
            _split(self.query(hidden[:1]), self.heads),
            _split(self.key(hidden), self.heads),
        )
        paid: Tensor = (
            (query @ key.transpose(1, 2) * key.shape[-1] ** -0.5).softmax(dim=-1).mean(dim=0)[0, 1:]
        )
        return paid / paid.sum().clamp(min=1e-9)


class _Block(nn.Module):
    """Attention among tiles, then an MLP; normalised before."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.attend, self.leave = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.widen, self.narrow = (
            nn.Linear(channels, 4 * channels),
            nn.Linear(4 * channels, channels),
        )

    def forward(self, hidden: Tensor) -> Tensor:
        query, key, value = (
            _split(part, self.heads) for part in self.attend(self.norm1(hidden)).chunk(3, dim=-1)
        )
        attended = scaled_dot_product_attention(query[None], key[None], value[None])[0]
        hidden = hidden + self.leave(attended.transpose(0, 1).flatten(1))
        after: Tensor = hidden + self.narrow(gelu(self.widen(self.norm2(hidden))))
        return after


def _split(values: Tensor, heads: int) -> Tensor:
    """[heads, n, d] of [n, heads * d]."""
    return values.view(len(values), heads, -1).transpose(0, 1)
