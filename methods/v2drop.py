"""V2Drop (2025): in stages drop the visual tokens that a layer of the language model barely
changes.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from prunebench import Budget, ScorePruner, Signal, Site, Stage, Staircase, VisualTokens, register


@register(
    paper="https://arxiv.org/abs/2509.01552",
    code="https://github.com/xuyang-liu16/V2Drop",
    variant="prompts of any length are pruned, and with every kernel; budgets and other depths get "
    "powers of the published shares",
)
@dataclass(frozen=True)
class V2Drop(ScorePruner):
    """Before each of `layers` rank by how far the layer before moved a token's state, in L2 norm.

    `layers` are those of a model of `depth`; in others they lie at the same shares of it. Without a
    budget `ratios` of the original tokens stay, at last a single one, as published. Of a budget the
    last stage pays what the powers of these leave over.
    """

    needs = frozenset({Signal.EARLIER_FEATURES})
    work_by_shape = True
    layers: tuple[int, ...] = (3, 17, 22)
    ratios: tuple[float, ...] = (0.5, 0.25, 0.0)
    depth: int = 32

    def __post_init__(self) -> None:
        _ = self.staircase  # raises for settings that do not fit

    @property
    def staircase(self) -> Staircase:
        """What is published."""
        return Staircase(self.layers, self.ratios, self.depth)

    def site(self) -> Site:
        """The first of its sites, in a model of `depth` layers."""
        return self.staircase.stages(1)[0].site

    def plan(self, budget: Budget | None, available: int, layers: int) -> tuple[Stage, ...]:
        steps = self.staircase.scaled(layers)
        return steps.stages(available) if budget is None else steps.solved(budget, available)

    def score(self, tokens: VisualTokens) -> Tensor:
        """[N] how far a token's state has moved."""
        moved: Tensor = (tokens.features.float() - tokens.earlier_features.float()).norm(dim=1)
        return moved
