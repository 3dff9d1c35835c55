"""DivPrune (CVPR 2025): keep the subset whose closest pair is as far apart as possible."""

from __future__ import annotations

from dataclasses import dataclass

from prunebench import (
    Keep,
    Pruner,
    Stage,
    VisualTokens,
    cosines,
    greedy_apart,
    register,
    require_finite,
)


@register(paper="https://arxiv.org/abs/2503.02175", code="https://github.com/vbdi/divprune")
@dataclass(frozen=True)
class DivPrune(Pruner):
    """Farthest-point sampling by cosine distance d_ij = 1 - cos(x_i, x_j), in float32.

    First the token farthest from its nearest other, argmax_j min_{i != j} d_ij, then argmax_j
    min_{i in S} d_ij. Chosen tokens are excluded explicitly; among distinct tokens that changes
    nothing, equal ones the official code may choose twice.
    """

    default_positions = "compact"
    work_by_shape = True
    own_share = 0.098

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        require_finite(tokens.features, "features")
        return Keep(greedy_apart(cosines(tokens.features), stage.keep))
