"""Blind: no visual token at all; the control that shows what a model answers without its images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from prunebench import INPUT, Budget, Keep, Pruner, Stage, VisualTokens, register


@register()
@dataclass(frozen=True)
class Blind(Pruner):
    """Drop every visual token before the first layer, whatever the budget.

    The text closes up, as if no image had been there. Removed, and not blanked: an image of nothing
    is something to be seen, to which a model answers "no" or that there is nothing, while a prompt
    without visual tokens is where every budget ends that goes to zero.
    """

    default_positions = "compact"
    dynamic: ClassVar[bool] = True

    def plan(self, budget: Budget | None, available: int, layers: int) -> tuple[Stage, ...]:
        return (Stage(INPUT, 0),)

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        return Keep(torch.empty(0, dtype=torch.long))
