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
    attention_reads,
    attention_stand_ins,
    check_attention,
    encoder_attention,
    register,
    summary_reads,
    tile_summaries,
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

    The paper's, as in its code:

    - the groups of blocks;
    - the allocator, in which a sentence embedding of the instruction queries the groups' mean CLS
      tokens through 4 blocks of cross-attention, and a softmax gives w;
    - the weight 0.02 of the entropy in its loss, which keeps w from collapsing;
    - a uniform w without weights, as in its first stage.

    There P* = sum_k w_k P_k are features for a retrained model. Ours:

    - w mixes attention instead, averaged over heads and a group's blocks and normalised in every
      tile, each of which gets its own w and its share of the budget;
    - CLIP's text embedding of the question, of length 1, stands for all-mpnet-base-v2's;
    - the loss is -log of the score on the evidence, with the entropy of w itself (the code takes a
      softmax of w before).

    Settings:

    - `attention`: "received" reads the attention that patches receive and averages patches in the
      place of CLS tokens, which is ours; "auto" does so on encoders that have none;
    - `balance`: the weight of the entropy;
    - `clip`: a hub id or folder, "" the CLIP that the model's encoder came from; asked for w;
    - `weights`: "none" asks for a uniform w, and "" falls back on it where a model has no weights.
    """

    default_positions = "compact"
    optional = True
    per_tile = True
    attention: str = "auto"
    balance: float = 0.02
    clip: str = ""
    depth: int = field(default=0, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_attention(self.attention)

    @property
    def stand_ins(self) -> Mapping[Signal, Signal]:
        return attention_stand_ins(self.attention)

    @property
    def reads(self) -> Reads:
        every_block = tuple(range(self.depth))
        reads = attention_reads(self.attention, every_block)
        if self.module is None:
            return reads
        text = Reads(frozenset({Signal.CLIP_TEXT}), clip=self.clip)
        return reads | summary_reads(self.attention, every_block) | text

    def prepared(self, facts: Facts) -> Self:
        """Every block of the encoder is read, so that their number must be known."""
        if facts.vision_blocks is None:
            raise Unsupported("igva reads the vision encoder; a bare decoder has none")
        ready = replace(self, depth=facts.vision_blocks)
        # not super(): it is the copy that knows the depth that takes the weights
        return Trained.prepared(ready, facts)

    def score(self, tokens: VisualTokens) -> Tensor:
        """[N] the mix of its tile's weights of what the groups attend to."""
        tile = tokens.tile.to(tokens.features.device)
        weights = self.weigh(tokens)[tile].mT  # [K, N]
        return (weights * self.maps(tokens)).sum(0)

    def maps(self, tokens: VisualTokens) -> Tensor:
        """[K, N] what each group attends to; every tile's sums to 1."""
        maps = grouped(encoder_attention(tokens).mean(1))
        tile = tokens.tile.to(maps.device)
        sums = maps.new_zeros(len(maps), len(tokens.tiles))  # [K, T]
        sums = sums.index_add(1, tile, maps)
        return maps / sums[:, tile].clamp(min=1e-12)

    def weigh(self, tokens: VisualTokens) -> Tensor:
        """[T, K] the weights of the groups in every tile, which add up to 1."""
        count = min(GROUPS, self.depth)
        if self.module is None:
            shape = len(tokens.tiles), count
            return torch.full(shape, 1 / count, device=tokens.features.device)
        summaries = grouped(tile_summaries(tokens))
        device = summaries.device
        text = tokens.clip_text[0].float().to(device)
        weights: Tensor = self.module.to(device)(text, summaries)
        return weights

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
        """The depth of the encoder that the weights belong to."""
        return replace(self, depth=int(sizes["vision_blocks"]))

    def loss(self, example: Example) -> tuple[Tensor, dict[str, float]]:
        """-log of the score's share on the evidence, averaged over the tiles that show some, less
        the weights' entropy.

        `uniform_loss` is the same of equal weights; `weight_k` the weights, averaged over tiles.
        """
        if self.module is None:
            raise ValueError(
                "igva has no weights to train: prepared() brings them, weights='random' fresh ones"
            )
        tokens = example.tokens
        weights, maps = self.weigh(tokens), self.maps(tokens)
        tiles = len(tokens.tiles)
        tile = tokens.tile.to(maps.device)
        target = example.target.to(maps)
        mass = maps.new_zeros(len(maps), tiles)  # [K, T] a group's attention on the evidence
        mass = mass.index_add(1, tile, maps * target).mT
        has_evidence = torch.bincount(tile, target, minlength=tiles) > 0
        location = _surprise((weights * mass).sum(1)[has_evidence])
        has_tokens = torch.bincount(tile, minlength=tiles) > 0
        surprise = -weights.clamp(min=1e-9).log()
        entropy = (weights * surprise).sum(1)[has_tokens].mean()
        figures = {
            "location_loss": float(location.detach()),
            # the mean over groups is their mix by equal weights
            "uniform_loss": float(_surprise(mass.mean(1)[has_evidence])),
            "entropy": float(entropy.detach()),
        }
        for group, weight in enumerate(weights[has_tokens].mean(0).detach()):
            figures[f"weight_{group}"] = float(weight)
        return location - self.balance * entropy, figures


def grouped(blocks: Tensor) -> Tensor:
    """[K, ...] means over quarters of the encoder's [B, ...] blocks; of fewer than four, each by
    itself.
    """
    parts = blocks.tensor_split(min(GROUPS, len(blocks)))
    return torch.stack([part.mean(0) for part in parts])


def _surprise(mass: Tensor) -> Tensor:
    """Mean of -log, 0 where there is nothing."""
    return -mass.clamp(min=1e-9).log().sum() / max(1, len(mass))


class _Allocator(nn.Module):
    """From a sentence embedding and the CLS tokens of K groups to their weights."""

    def __init__(self, sizes: Mapping[str, Any]) -> None:
        super().__init__()
        self.text_width = int(sizes["text_width"])
        channels = int(sizes["channels"])
        self.sentence = nn.Linear(self.text_width, channels)
        self.summary = nn.Linear(int(sizes["vision_width"]), channels)
        self.blocks = nn.ModuleList(_Block(channels) for _ in range(BLOCKS))
        self.weigh = nn.Linear(channels, min(GROUPS, int(sizes["vision_blocks"])))

    def forward(self, text: Tensor, summaries: Tensor) -> Tensor:
        """[T, K] weights from [P] and [K, T, D_v]."""
        room = self.text_width - len(text)
        if room < 0:
            raise ValueError(
                f"CLIP's text embedding has {len(text)} channels; "
                f"igva's weights are for up to {self.text_width}"
            )
        memory = self.summary(summaries.transpose(0, 1))  # [T, K, channels]
        sentence = pad(normalize(text, dim=0), (0, room))
        query = self.sentence(sentence).expand(len(memory), 1, -1)
        for block in self.blocks:
            query = block(query, memory)
        weights: Tensor = self.weigh(query[:, 0]).softmax(dim=-1)
        return weights


class _Block(nn.Module):
    """Cross-attention of the query over the groups, then an MLP; normalised behind each."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(channels, HEADS, batch_first=True)
        self.norm1 = nn.LayerNorm(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(
            nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels)
        )

    def forward(self, query: Tensor, memory: Tensor) -> Tensor:
        attended, _ = self.attend(query, memory, memory, need_weights=False)
        query = self.norm1(query + attended)
        after: Tensor = self.norm2(query + self.mlp(query))
        return after
