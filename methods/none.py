"""No pruning: the reference that every method is paired with."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from prunebench import Budget, Keep, Pruner, Stage, VisualTokens, register


@register()
@dataclass(frozen=True)
class Unpruned(Pruner):
    """Keep every token, whatever the budget."""

    work_by_shape = True

    def plan(self, budget: Budget | None, available: int, layers: int) -> tuple[Stage, ...]:
        return (Stage(self.site(), available),)

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        return Keep(torch.arange(len(tokens)))
