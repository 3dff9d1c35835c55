"""Resize: encode the image at a lower resolution; what a practitioner does instead of pruning."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, log

import torch

from prunebench import (
    PIXELS,
    Budget,
    BudgetError,
    Keep,
    Pruner,
    Site,
    Stage,
    VisualTokens,
    register,
)


@register()
@dataclass(frozen=True)
class Resize(Pruner):
    """Scale the image to a grid of at most the budget's tokens: least |log(aspect change)| +
    log(budget/tokens).
    """

    work_by_shape = True

    def site(self) -> Site:
        return PIXELS

    def plan(self, budget: Budget | None, available: int, layers: int) -> tuple[Stage, ...]:
        """All tokens there are: the image that was encoded is already the small one."""
        return (Stage(PIXELS, available),)

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        return Keep(torch.arange(len(tokens)))

    def resize(self, size: tuple[int, int], cell: int, budget: Budget | None) -> tuple[int, int]:
        """The grid that is nearest to the image's shape and fills the budget best; the image as it
        is where that is its own. Raises BudgetError for a budget of no token.
        """
        if budget is None:
            raise BudgetError("resize has no budget of its own; give one, such as 0.25 or 64")
        columns, rows = (max(1, round(side / cell)) for side in size)
        available = rows * columns
        amount = budget.tokens(available)
        if amount < 0.5:
            raise BudgetError(
                f"budget {budget} is no token of the {available} visual tokens there are"
            )
        # 1e-9: 0.29 of 100 tokens is a float just below 29
        target = max(1, floor(amount + 1e-9))

        def loss(grid: tuple[int, int]) -> float:
            height, width = grid
            stretch = log(width * rows / (height * columns))
            return abs(stretch) + log(target / (height * width))

        # every number of rows with as many columns as the budget has room for
        grids = [(r, min(columns, target // r)) for r in range(1, min(rows, target) + 1)]
        height, width = min(grids, key=loss)
        if (height, width) == (rows, columns):
            return size
        return width * cell, height * cell
