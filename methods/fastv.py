"""FastV (ECCV 2024): drop the visual tokens that the last prompt token barely attends to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor

from prunebench import Facts, ScorePruner, Signal, Site, VisualTokens, llm, register


@register(paper="https://arxiv.org/abs/2403.06764", code="https://github.com/pkunlp-icler/FastV")
@dataclass(frozen=True)
class FastV(ScorePruner):
    """Rank by attention received in the layer before `layer`, averaged over heads.

    The paper speaks of the average over queries; the official code, followed here, reads the last
    query's row. In a model whose layers do not all attend, `layer` 2 as published stands for the
    nearest one behind a layer that does; any other is taken at its word.
    """

    needs = frozenset({Signal.LAST_QUERY_ATTENTION})
    work_by_shape = True
    own_share = 0.5
    layer: int = 2

    def prepared(self, facts: Facts) -> Self:
        if self.layer != FastV.layer:
            return self
        return replace(self, layer=facts.attending_near(self.layer - 1, last=facts.layers - 2) + 1)

    def site(self) -> Site:
        return llm(before=self.layer)

    def score(self, tokens: VisualTokens) -> Tensor:
        """[N] what the last prompt token paid in the layer before the site."""
        return tokens.last_query_attention.mean(dim=0)
