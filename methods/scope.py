"""SCOPE (NeurIPS 2025): keep the tokens that cover what is not covered yet, weighed by the
encoder's attention.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

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
    cosines,
    encoder_attention,
    greedy_cover,
    pick_tiles,
    register,
    require_finite,
)


@register(
    code="https://github.com/kinredon/SCOPE",
    paper="https://arxiv.org/abs/2510.24214",
    variant="unpadding and newlines are the model's, whose newlines official code drops",
)
@dataclass(frozen=True)
class SCOPE(Pruner):
    """Greedy facility location in every tile: argmax_j w_j sum_i max(0, cos(x_i, x_j) - c_i), where
    c_i is the largest cosine of x_i to the tokens taken, 0 at first.

    The features x are the encoder's; w is the sum over heads of the attention a token draws, to the
    power `alpha`. `attention`: see `attention_reads`.
    """

    default_positions = "compact"
    work_by_shape = True
    alpha: float = 1.0
    attention: str = "auto"

    def __post_init__(self) -> None:
        check_attention(self.attention)
        if self.alpha < 0:
            raise ValueError(f"alpha is {self.alpha:g}; it is 0 or more")

    @property
    def stand_ins(self) -> Mapping[Signal, Signal | None]:
        return attention_stand_ins(self.attention)

    @property
    def reads(self) -> Reads:
        return attention_reads(self.attention) | Reads(frozenset({Signal.ENCODER_FEATURES}))

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        """The picks of every tile; raises ValueError for values that are not finite."""
        weights = encoder_attention(tokens).mean(0).sum(0) ** self.alpha
        features = tokens.encoder_features[0]
        require_finite(features, "encoder features")
        require_finite(weights, "attention")

        def pick(places: Tensor, count: int) -> Tensor:
            return places[greedy_cover(cosines(features[places]), weights[places], count)]

        return Keep(pick_tiles(tokens, stage.keep, pick))
