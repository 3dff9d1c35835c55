"""IGVA (Pattern Recognition 2026): the instruction decides which depths of the vision encoder say
where to look.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, pad

from prunebench import (
    Example,
    Facts,
    Reads,
    ScorePruner,
    Signal,
    Trained,
    Unsupported,
    VisualTokens,
    register,
)

GROUPS, BLOCKS, HEADS = 4, 4, 4
"""Groups of encoder layers, and the allocator's depth and heads."""
TEXT_WIDTH = 768
"""Channels of a sentence embedding: as many as the paper's model and the CLIP of LLaVA have;
narrower ones are padded.
"""


@register(
    paper="https://arxiv.org/abs/2501.08443",
    code="https://github.com/YiZheng-zy/IGVA",
    variant="ranks tokens by the layer mix; the paper's mixes their features, and drops nothing",
    reconstruction=True,
)
@dataclass(frozen=True)
class IGVA(Trained, ScorePruner):
    """Rank by sum_k w_k A_k: A_k is the CLS token's attention in the k-th quarter of the encoder's
    blocks, w the instruction's.

    The paper's, as in its code: the groups; the allocator, in which a sentence embedding of the
    instruction queries the groups' mean CLS tokens through 4 blocks of cross-attention and a
    softmax gives w; the weight 0.02 of the entropy in its loss, which keeps w from collapsing.
    There P* = sum_k w_k P_k are features for a retrained model. Ours: that w mixes attention
    instead, averaged over heads and a group's blocks and normalised in every tile, each of which
    gets its own w and its share of the budget; CLIP's text embedding of the question, of length 1,
    in the place of all-mpnet-base-v2's; the loss, -log of the score on the evidence, and the
    entropy of w itself (the code takes a softmax of w before).

    Without weights w is uniform, as in the paper's first stage: what `weights` "none" asks for, and
    what "" falls back on where a model has none. `attention="received"` reads the attention that
    patches receive and averages patches in the place of CLS tokens: ours, for encoders that have
    none.
    """

    default_positions = "compact"
    optional = True
    per_tile = True
    attention: str = "cls"
    balance: float = 0.02
    depth: int = field(default=0, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.attention not in ("cls", "received"):
            raise ValueError(f"attention is {self.attention!r}; it is 'cls' or 'received'")

    @property
    def needs(self) -> frozenset[Signal]:
        cls = self.attention == "cls"
        paid = Signal.CLS_ATTENTION if cls else Signal.RECEIVED_ATTENTION
        if self.module is None:
            return frozenset({paid})
        return frozenset(
            {paid, Signal.CLS_FEATURES if cls else Signal.ENCODER_FEATURES, Signal.CLIP_TEXT}
        )

    @property
    def reads(self) -> Reads:
        every_block = tuple(range(self.depth))
        return Reads(self.needs, blocks=dict.fromkeys(self.needs, every_block))

    def prepared(self, facts: Facts) -> Self:
        if facts.vision_blocks is None:
            raise Unsupported("igva reads the vision encoder; a bare decoder has none")
        ready = replace(self, depth=facts.vision_blocks)
        return Trained.prepared(ready, facts)

    def score(self, tokens: VisualTokens) -> Tensor:
        tile = tokens.layout.tile[tokens.index].to(tokens.features.device)
        return (self.weigh(tokens)[tile].mT * self.maps(tokens)).sum(0)

    def maps(self, tokens: VisualTokens) -> Tensor:
        """[K, N] what each group attends to; every tile's sums to 1."""
        seen = tokens.cls_attention if self.attention == "cls" else tokens.received_attention
        maps = grouped(seen.float().mean(1))
        tile = tokens.layout.tile[tokens.index].to(maps.device)
        whole = maps.new_zeros(len(maps), len(tokens.tiles)).index_add(1, tile, maps)
        return maps / whole[:, tile].clamp(min=1e-12)

    def weigh(self, tokens: VisualTokens) -> Tensor:
        """[T, K] the weights of the groups in every tile, which add up to 1."""
        count = min(GROUPS, self.depth)
        if self.module is None:
            return torch.full((len(tokens.tiles), count), 1 / count, device=tokens.features.device)
        summaries = grouped(self._summaries(tokens))
        weights: Tensor = self.module.to(summaries.device)(
            tokens.clip_text[0].float().to(summaries.device), summaries
        )
        return weights

    def _summaries(self, tokens: VisualTokens) -> Tensor:
        """[B, T, D_v] the CLS token of every tile, or the mean of its patches."""
        if self.attention == "cls":
            return tokens.cls_features.float()
        features = tokens.encoder_features.float()
        tile = tokens.layout.tile[tokens.index].to(features.device)
        real = (~tokens.layout.newline[tokens.index]).to(features)
        sums = features.new_zeros(len(features), len(tokens.tiles), features.shape[-1])
        sums = sums.index_add(1, tile, features * real[:, None])
        return (
            sums / real.new_zeros(len(tokens.tiles)).index_add(0, tile, real).clamp(min=1)[:, None]
        )

    # ---- weights ---------------------------------------------------------------------------------

    @classmethod
    def sizes(cls, facts: Facts) -> dict[str, Any]:
        """As in the paper for a CLIP of 1024 channels: the allocator is as wide as the encoder."""
        if facts.vision_blocks is None or facts.vision_width is None:
            raise Unsupported("igva reads the vision encoder; a bare decoder has none")
        return {
            "vision_blocks": facts.vision_blocks,
            "vision_width": facts.vision_width,
            "text_width": TEXT_WIDTH,
            "channels": facts.vision_width // HEADS * HEADS,
        }

    @classmethod
    def build(cls, sizes: Mapping[str, Any]) -> nn.Module:
        return _Allocator(sizes)

    def adapted(self, sizes: Mapping[str, Any]) -> Self:
        return replace(self, depth=int(sizes["vision_blocks"]))

    def loss(self, example: Example) -> tuple[Tensor, dict[str, float]]:
        """-log of the score's share on the evidence, averaged over the tiles that show some, less the weights' entropy.

        `uniform_loss` is the same of equal weights; `weight_k` the weights, averaged over tiles.
        """
        if self.module is None:
            raise ValueError(
                "igva has no weights to train: prepared() brings them, weights='random' fresh ones"
            )
        tokens = example.tokens
        weights, maps = self.weigh(tokens), self.maps(tokens)
        tile = tokens.layout.tile[tokens.index].to(maps.device)
        target = example.target.to(maps)
        mass = maps.new_zeros(len(maps), len(tokens.tiles)).index_add(1, tile, maps * target).mT
        shown = torch.bincount(tile, target, minlength=len(tokens.tiles)) > 0
        location = _surprise((weights * mass).sum(1)[shown])
        filled = torch.bincount(tile, minlength=len(tokens.tiles)) > 0
        entropy = -(weights * weights.clamp(min=1e-9).log()).sum(1)[filled].mean()
        figures = {
            "location_loss": float(location.detach()),
            "uniform_loss": float(_surprise(mass.mean(1)[shown])),
            "entropy": float(entropy.detach()),
            **{
                f"weight_{k}": float(weight)
                for k, weight in enumerate(weights[filled].mean(0).detach())
            },
        }
        return location - self.balance * entropy, figures


def grouped(blocks: Tensor) -> Tensor:
    """[K, ...] means over quarters of the encoder's [B, ...] blocks; of fewer than four, each by
    itself.
    """
    return torch.stack([part.mean(0) for part in blocks.tensor_split(min(GROUPS, len(blocks)))])


def _surprise(mass: Tensor) -> Tensor:
    """Mean of -log, 0 where there is nothing."""
    return -mass.clamp(min=1e-9).log().sum() / max(1, len(mass))


class _Allocator(nn.Module):
    """From a sentence embedding and the CLS tokens of K groups to their weights."""

    def __init__(self, sizes: Mapping[str, Any]) -> None:
        super().__init__()
        self.text_width, channels = int(sizes["text_width"]), int(sizes["channels"])
        self.sentence = nn.Linear(self.text_width, channels)
        self.summary = nn.Linear(int(sizes["vision_width"]), channels)
        self.blocks = nn.ModuleList(_Block(channels) for _ in range(BLOCKS))
        self.weigh = nn.Linear(channels, min(GROUPS, int(sizes["vision_blocks"])))

    def forward(self, text: Tensor, summaries: Tensor) -> Tensor:
        """[T, K] weights from [P] and [K, T, D_v]."""
        room = self.text_width - len(text)
        if room < 0:
            raise ValueError(
                f"CLIP's text embedding has {len(text)} channels; igva's weights are for up to {self.text_width}"
            )
        memory = self.summary(summaries.transpose(0, 1))
        query = self.sentence(pad(normalize(text, dim=0), (0, room))).expand(len(memory), 1, -1)
        for block in self.blocks:
            query = block(query, memory)
        weights: Tensor = self.weigh(query[:, 0]).softmax(dim=-1)
        return weights


class _Block(nn.Module):
    """Cross-attention of the query over the groups, then an MLP; normalised behind each."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(channels, HEADS, batch_first=True)
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.mlp = nn.Sequential(
            nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels)
        )

    def forward(self, query: Tensor, memory: Tensor) -> Tensor:
        query = self.norm1(query + self.attend(query, memory, memory, need_weights=False)[0])
        after: Tensor = self.norm2(query + self.mlp(query))
        return after
