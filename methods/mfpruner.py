"""MFPruner (2025): keep what two of three cues agree on: attention, difference from the others, and
relevance to the question.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from prunebench import (
    RELEVANCE_STAND_INS,
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
    pick_tiles,
    question_cosines,
    quotas,
    register,
    require_finite,
    scaled,
    tile_places,
    top,
)


@register(
    paper="https://github.com/dluo112/MFPruner",
    code="https://github.com/dluo112/MFPruner",
    variant=(
        "of more tokens with two votes than may stay those of highest sum, where official code "
        "takes any; tokens go on in reading order; every tile votes by itself; unpadding and "
        "newlines are the model's"
    ),
)
@dataclass(frozen=True)
class MFPruner(Pruner):
    """Per tile of T survivors each cue votes for T tokens: attention drawn, 1 minus the mean cosine
    with the other tokens, and minus the mean cosine with the question in CLIP's space; those with
    the most votes stay, of equal ones those of the highest sum of the cues.

    The first and the last cue are scaled to 0..1. A model whose encoder is no CLIP's compares its
    tokens with the text's rows in the language model's space, with a plus. `attention`: see
    `attention_reads`.
    """

    default_positions = "compact"
    work_by_shape = True
    attention: str = "auto"

    def __post_init__(self) -> None:
        check_attention(self.attention)

    @property
    def stand_ins(self) -> Mapping[Signal, Signal | None]:
        return attention_stand_ins(self.attention) | RELEVANCE_STAND_INS

    @property
    def reads(self) -> Reads:
        relevance = Reads(frozenset({Signal.CLIP_PATCHES, Signal.CLIP_TEXT}))
        return attention_reads(self.attention) | relevance

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        """By votes, then by sum; raises ValueError for cues that are not finite."""
        require_finite(tokens.features, "features")
        raw = self.raw(tokens)

        def pick(places: Tensor, count: int) -> Tensor:
            cues = self.cues(raw[:, places], tokens.features[places])
            sums, votes = cues.sum(0), voted(cues, count)
            ranked = top(sums, len(sums))
            ranked = ranked[votes[ranked].sort(descending=True, stable=True).indices]
            return places[ranked[:count]]

        return Keep(pick_tiles(tokens, stage.keep, pick))

    def raw(self, tokens: VisualTokens) -> Tensor:
        """[2, N] attention and relevance as they are."""
        attention = encoder_attention(tokens).mean(dim=(0, 1)).to(tokens.features.device)
        relevance = question_cosines(tokens).to(tokens.features.device)
        raw = torch.stack([attention, relevance])
        require_finite(raw, "attention and relevance")
        return raw

    @staticmethod
    def cues(raw: Tensor, features: Tensor) -> Tensor:
        """[3, n] the cues of a tile: `raw` [2, n] are its attention and relevance."""
        unit = normalize(features.float(), dim=-1)
        # the sum of the cosines with all is the product with their sum, less that with itself
        cosines = unit @ unit.sum(0) - unit.square().sum(1)
        return torch.stack([scaled(raw[0]), 1 - cosines / len(unit), scaled(raw[1])])

    def explain(self, tokens: VisualTokens, stage: Stage) -> dict[str, Tensor]:
        raw, sums, votes = self.raw(tokens), [], []
        tiles = tile_places(tokens, newlines=False)
        for places, quota in zip(tiles, quotas(tiles, stage.keep), strict=True):
            cues = self.cues(raw[:, places], tokens.features[places])
            sums.append(cues.sum(0))
            votes.append(voted(cues, quota))
        return {"scores": torch.cat(sums), "votes": torch.cat(votes)}


def voted(cues: Tensor, count: int) -> Tensor:
    """[n] int64: how many of `cues` [3, n] have a token among their highest `count`."""
    votes = torch.zeros_like(cues, dtype=torch.int64)
    for cue, vote in zip(cues, votes, strict=True):
        vote[top(cue, count)] = 1
    return votes.sum(0)
