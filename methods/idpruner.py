"""IDPruner (2026): greedily keep what is important and unlike what is kept already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prunebench.methods.visionselector import VisionSelector
from torch import Tensor
from torch.nn.functional import normalize

from prunebench import (
    Keep,
    Reads,
    Signal,
    Stage,
    VisualTokens,
    attention_reads,
    attention_stand_ins,
    check_attention,
    encoder_attention,
    greedy_marginal,
    register,
    require_finite,
    with_newlines,
)

EPSILON = 1e-6


@register(
    paper="https://arxiv.org/abs/2602.13315",
    code="https://github.com/Tencent/AngelSlim",
    variant=(
        "without weights the encoder's attention stands for the trained scorer; training is ours, "
        "as VisionSelector's"
    ),
)
@dataclass(frozen=True)
class IDPruner(VisionSelector):  # type: ignore[misc]  # mypy reads methods/ as a package of its own
    """First the most important token, then argmax lambda I - (1 - lambda) max cos, the cosines
    those to the tokens taken; over all images of a prompt together, as published.

    The importance I is that of VisionSelector's scorer, scaled to 0..1. Newline tokens come last.

    Settings:

    - `balance`: lambda;
    - `at_once`: how many tokens are taken in every round;
    - `weights`: "none" asks for the attention that the encoder's CLS token pays, averaged over
      heads, and "" falls back on it where a model has no weights;
    - `attention`: see `attention_reads`.
    """

    optional = True
    work_by_shape = True
    own_share = None
    balance: float = 0.5
    at_once: int = 1
    attention: str = "auto"

    def __post_init__(self) -> None:
        check_attention(self.attention)
        if not 0 < self.balance <= 1 or self.at_once < 1:
            raise ValueError(
                f"balance is {self.balance:g} and at_once {self.at_once}; "
                "the one lies in 0..1, above 0, the other is 1 or more"
            )

    @property
    def stand_ins(self) -> Mapping[Signal, Signal]:
        return attention_stand_ins(self.attention) if self.module is None else {}

    @property
    def reads(self) -> Reads:
        return attention_reads(self.attention) if self.module is None else Reads()

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        """The picks; raises ValueError for features or scores that are not finite."""
        scores = self.score(tokens).to(tokens.features.device)
        require_finite(scores, "scores")
        require_finite(tokens.features, "features")
        patches = (~tokens.newline).nonzero()[:, 0].to(scores.device)
        count = min(stage.keep, len(patches))
        if not count:
            return Keep(with_newlines(tokens, patches, stage.keep))
        scores = scores[patches]
        extent = scores.max() - scores.min() + EPSILON
        importance = (scores - scores.min()) / extent
        unit = normalize(tokens.features[patches].float(), dim=-1)
        likeness = (1 - self.balance) * (unit @ unit.T)
        order = greedy_marginal(likeness, self.balance * importance, count, self.at_once)
        return Keep(with_newlines(tokens, patches[order], stage.keep))

    def score(self, tokens: VisualTokens) -> Tensor:
        """[N] what the scorer says, or the encoder's attention without one."""
        if self.module is None:
            return encoder_attention(tokens)[0].mean(0)
        scores: Tensor = super().score(tokens)
        return scores
