"""FitPrune (AAAI 2025): behind nearly every layer drop the few tokens that neither image nor
question attends to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import ClassVar, Self

from torch import Tensor

from prunebench import (
    Budget,
    Facts,
    ScorePruner,
    Signal,
    Site,
    Stage,
    Staircase,
    VisualTokens,
    llm,
    nearest_row,
    register,
)

TOKENS = 576
"""Visual tokens of LLaVA-1.5, for which the tables are."""


@register(
    paper="https://arxiv.org/abs/2409.10197",
    code="https://github.com/ywh187/FitPrune",
    variant="two of the published tables; other budgets and depths get the powers of the nearer "
    "one's shares, and no statistics of attention are gathered for them",
)
@dataclass(frozen=True)
class FitPrune(ScorePruner):
    """Score token j by self_j * cross_j: of the largest attention over heads, the mean over visual
    queries and the sum over all text behind the image, in the layer before the site.

    Without a budget tokens leave by the official table for a `reduction` of the FLOPs by 60 or 80
    %, which says how many of 576 leave behind each of 32 layers; they leave other images and models
    in the same shares, at the same shares of the depth.
    """

    needs = frozenset({Signal.VISUAL_ATTENTION, Signal.TEXT_ATTENTION})
    work_by_shape = True
    table: ClassVar[Mapping[int, str]] = {
        60: "14 33 89 36 36 20 55 21 18 4 7 5 2 5 7 4 26 5 11 24 4 18 2 1 0 0 1 0 1 0 0 0",
        80: "128 127 118 35 26 8 13 3 2 1 0 0 0 2 1 8 7 8 5 11 2 6 1 1 0 0 0 1 0 0 0 0",
    }
    """By the reduction in percent, how many of the tokens leave behind each of 32 layers."""
    reduction: int = 60
    stateful: frozenset[int] = field(default=frozenset(), repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.reduction not in self.table:
            raise ValueError(f"reduction is {self.reduction}; tables are there for 60 and 80 %")

    def prepared(self, facts: Facts) -> Self:
        """The layers that do not attend are noted."""
        return replace(self, stateful=facts.stateful)

    def site(self) -> Site:
        """The first of its sites."""
        return llm(before=1)

    def plan(self, budget: Budget | None, available: int, layers: int) -> tuple[Stage, ...]:
        """A stage behind every layer of the table that drops something."""
        if budget is None:
            return self.staircase(self.reduction).scaled(layers, self.stateful).stages(available)
        spent = budget.tokens(available) / max(1, available)
        reduction = nearest_row(tuple(self.table), 100 * (1 - spent))
        return self.staircase(reduction).scaled(layers, self.stateful).solved(budget, available)

    def staircase(self, reduction: int) -> Staircase:
        """What a table leaves of the tokens."""
        drops: dict[int, int] = {}
        for layer, count in enumerate(map(int, self.table[reduction].split())):
            if count > 0:
                drops[layer + 1] = count
        ratios = [1 - count / TOKENS for count in accumulate(drops.values())]
        return Staircase(tuple(drops), tuple(ratios))

    def score(self, tokens: VisualTokens) -> Tensor:
        """[N] what image and text paid, multiplied."""
        visual = tokens.visual_attention.float().amax(dim=0)  # [N, N]
        text = tokens.text_attention.float().amax(dim=0)  # [Q, N]
        return visual.mean(dim=0) * text.sum(dim=0)
