"""MFPruner (2025): keep what two of three cues agree on: attention, rarity, and the question."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from prunebench import (
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
    quotas,
    register,
    require_finite,
    tile_places,
    top,
    with_newlines,
)

EPSILON = 1e-6


@register(
    # the paper is in its repository alone
    paper="https://github.com/dluo112/MFPruner",
    code="https://github.com/dluo112/MFPruner",
    variant=(
        "of too many tokens with two votes those of the largest sum stay, where official code cuts "
        "in the order of a hash; rows go on in reading order; tiles each by themselves"
    ),
)
@dataclass(frozen=True)
class MFPruner(Pruner):
    """Per tile, T tokens: those among the T best of at least two cues, filled up by the sum of all.

    The cues are the CLS token's attention, averaged over heads; 1 minus the mean cosine to the
    other tokens; and minus the mean cosine to the question in CLIP's space, minus as the authors of
    CDPruner found it. The first and the last are scaled to 0..1. Models whose encoder is no CLIP's
    compare their tokens with the text's rows in the language model's space, with a plus.

    `attention`: see `attention_reads`.
    """

    default_positions = "compact"
    work_by_shape = True
    attention: str = "auto"

    def __post_init__(self) -> None:
        check_attention(self.attention)

    @property
    def stand_ins(self) -> Mapping[Signal, Signal]:
        of_text = dict.fromkeys((Signal.CLIP_PATCHES, Signal.CLIP_TEXT), Signal.TEXT_FEATURES)
        return {**attention_stand_ins(self.attention), **of_text}

    @property
    def reads(self) -> Reads:
        clip = Reads(frozenset({Signal.CLIP_PATCHES, Signal.CLIP_TEXT}))
        return attention_reads(self.attention) | clip

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        """The choice of every tile; raises ValueError for signals that are not finite."""
        values = self.explain(tokens, stage)
        scores, votes = values["scores"], values["votes"]
        groups = [places.to(scores.device) for places in tile_places(tokens, newlines=False)]
        kept = [torch.empty(0, dtype=torch.int64, device=scores.device)]
        for places, quota in zip(groups, quotas(groups, stage.keep), strict=True):
            # one vote is as none
            agreed = votes[places].clamp(min=1)
            by_sum = top(scores[places], len(places))
            order = by_sum[top(agreed[by_sum], len(places))]
            kept.append(places[order[:quota]])
        return Keep(with_newlines(tokens, torch.cat(kept), stage.keep))

    def explain(self, tokens: VisualTokens, stage: Stage) -> dict[str, Tensor]:
        """[N] the sum of the cues, and how many of them vote for a token; 0 for newlines."""
        attention = encoder_attention(tokens)[0].mean(0)
        likeness = self.likeness(tokens).to(attention.device)
        unit = normalize(tokens.features.float(), dim=-1)
        for name, value in (("attention", attention), ("relevance", likeness), ("features", unit)):
            require_finite(value, name)
        scores = torch.zeros_like(attention)
        votes = torch.zeros_like(attention, dtype=torch.int64)
        groups = [places.to(attention.device) for places in tile_places(tokens, newlines=False)]
        for places, quota in zip(groups, quotas(groups, stage.keep), strict=True):
            if not len(places):
                continue
            own = unit[places.to(unit.device)]
            # the mean over all others is a product with their sum, no [n, n]
            shared = (own @ own.sum(0) - own.square().sum(-1)) / len(places)
            cues = [scaled(attention[places]), 1 - shared, scaled(likeness[places])]
            for cue in cues:
                scores[places] += cue.to(scores)
                votes[places[top(cue, quota)]] += 1
        return {"scores": scores, "votes": votes}

    def likeness(self, tokens: VisualTokens) -> Tensor:
        """[N] how much the question asks for a token."""
        of_clip = Signal.CLIP_PATCHES in tokens.signals
        patches = tokens.clip_patches if of_clip else tokens.features
        texts = tokens.clip_text if of_clip else tokens.text_features
        unit, words = normalize(patches.float(), dim=-1), normalize(texts.float(), dim=-1)
        cosines = (unit @ words.to(unit.device).T).mean(1)
        return -cosines if of_clip else cosines


def scaled(values: Tensor) -> Tensor:
    """[n] the same between 0 and 1."""
    low, high = values.min(), values.max()
    return (values - low + EPSILON) / (high - low + EPSILON)
