"""PyramidDrop (CVPR 2025): drop visual tokens in stages, more of them the deeper the layer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor

from prunebench import (
    Budget,
    BudgetError,
    Facts,
    ScorePruner,
    Signal,
    Site,
    Stage,
    VisualTokens,
    llm,
    register,
    solve,
)


@register(
    paper="https://arxiv.org/abs/2410.17247", code="https://github.com/Cooperx521/PyramidDrop"
)
@dataclass(frozen=True)
class PyramidDrop(ScorePruner):
    """Before each of `layers` rank by the attention the last prompt token would pay there, averaged
    over heads.

    `layers` are layer numbers or shares of the depth (floats, rounded down): 8, 16, 24 of 32; where
    not all layers attend, a share stands for the nearest that does, behind the stage before. A
    budget is met by a geometric staircase t, t^2, t^3; without one, `ratios` of the original tokens
    stay, 0.5, 0.25, 0.125 as published.
    """

    needs = frozenset({Signal.NEXT_QUERY_ATTENTION})
    default_positions = "compact"
    work_by_shape = True
    layers: tuple[int | float, ...] = (0.25, 0.5, 0.75)
    ratios: tuple[float, ...] | None = None

    def prepared(self, facts: Facts) -> Self:
        """Shares of the depth become numbers where not every layer attends."""
        if not facts.stateful:
            return self
        numbers: list[int] = []
        for layer in self.layers:
            number = _number_of(layer, facts.layers)
            if isinstance(layer, float):
                first = numbers[-1] + 1 if numbers else 1
                number = facts.attending_near(max(first, number), first=first)
            numbers.append(number)
        return replace(self, layers=tuple(numbers))

    def site(self) -> Site:
        """The first of its sites, in a model of 32 layers."""
        return self.sites(32)[0]

    def sites(self, layers: int) -> list[Site]:
        """Its sites in a model of `layers` LLM layers; raises BudgetError where they coincide or
        lie outside.
        """
        numbers = [_number_of(layer, layers) for layer in self.layers]
        rise = bool(numbers) and sorted({*numbers}) == numbers
        if not rise or numbers[0] < 1 or numbers[-1] >= layers:
            raise BudgetError(
                f"pyramiddrop.layers {list(self.layers)} are the layers {numbers} of {layers}; "
                f"they must rise and lie in 1..{layers - 1}"
            )
        return [llm(before=number) for number in numbers]

    def plan(self, budget: Budget | None, available: int, layers: int) -> tuple[Stage, ...]:
        """A staircase that meets the budget, or `ratios` of the tokens without one; raises
        BudgetError where both are given.
        """
        sites = self.sites(layers)
        if budget is not None:
            if self.ratios is not None:
                raise BudgetError(
                    f"pyramiddrop.ratios {list(self.ratios)} fix what is kept; "
                    "give them or a budget, not both"
                )
            return solve(budget, sites, available, layers)
        ratios = self.ratios or (0.5, 0.25, 0.125)
        if len(ratios) != len(sites):
            raise BudgetError(
                f"pyramiddrop.ratios {list(ratios)} must be one for each of {len(sites)} layers"
            )
        stages = []
        for site, ratio in zip(sites, ratios, strict=True):
            stages.append(Stage(site, max(1, int(available * ratio))))
        return tuple(stages)

    def score(self, tokens: VisualTokens) -> Tensor:
        """[N] what the last prompt token would pay in the layer behind the site."""
        return tokens.next_query_attention.mean(dim=0)


def _number_of(layer: int | float, layers: int) -> int:
    """A layer's number, of a share of the depth the one below it."""
    return max(1, int(layer * layers)) if isinstance(layer, float) else layer
