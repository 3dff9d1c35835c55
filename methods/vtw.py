"""VTW (AAAI 2025): before one layer all visual tokens leave; the layers behind it read text."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from prunebench import (
    INPUT,
    Budget,
    BudgetError,
    Keep,
    Pruner,
    Site,
    Stage,
    VisualTokens,
    llm,
    register,
    scaled_layer,
)


@register(
    paper="https://arxiv.org/abs/2405.05803",
    code="https://github.com/lzhxmu/VTW",
    variant="the layer is given or follows from the budget, where the official code searches one "
    "by the divergence of the last token's distributions",
)
@dataclass(frozen=True)
class VTW(Pruner):
    """Withdraw every visual token before layer `layer` of a model of `depth` layers, in models of
    another depth at the same share of it.

    A budget chooses the layer instead: the last one before which all tokens can be alive without
    spending more. Tokens are withdrawn all at once, so that a run may spend less than it may, by
    the tokens of one layer. Nothing is ranked.
    """

    dynamic = True
    work_by_shape = True
    layer: int = 15
    depth: int = 32

    def __post_init__(self) -> None:
        if not 1 <= self.layer < self.depth:
            raise ValueError(f"layer is {self.layer}; it lies in 1..{self.depth - 1}")

    def site(self) -> Site:
        """Its site in a model of `depth` layers."""
        return llm(before=self.layer)

    def plan(self, budget: Budget | None, available: int, layers: int) -> tuple[Stage, ...]:
        """One stage that keeps nothing; raises BudgetError for a budget that does not pay for one
        layer.
        """
        if budget is None:
            return (Stage(llm(before=scaled_layer(self.layer, self.depth, layers)), 0),)
        target = budget.tokens(available)
        # all tokens enter layer 0, whatever leaves behind it
        paid = layers if budget.kind == "input" else target * layers / max(1, available)
        if target < available and (budget.kind == "input" or paid + 1e-9 < 1):
            raise BudgetError(
                f"budget {budget} ({target:g} of {available} visual tokens) is out of reach: all "
                "tokens enter the first layer"
            )
        layer = int(paid + 1e-9)
        return (Stage(INPUT, available) if layer >= layers else Stage(llm(before=layer), 0),)

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        """All tokens, where the budget pays for them; asked of no other stage."""
        return Keep(torch.arange(min(stage.keep, len(tokens))))
