"""Staircases: what papers publish as layers and shares for one model, in any model and for any
budget.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from prunebench.budget import Budget, BudgetError, Stage, solve
from prunebench.sites import llm


@dataclass(frozen=True)
class Staircase:
    """Before `layers` of a model of `depth` layers all but `ratios` of the original visual tokens
    have left.

    Raises BudgetError for layers that do not rise within 1..depth - 1, and for ratios that do not
    fall within 0..1.
    """

    layers: tuple[int, ...]
    ratios: tuple[float, ...]
    depth: int = 32

    def __post_init__(self) -> None:
        if len(self.layers) != len(self.ratios) or not self.layers:
            raise BudgetError(
                f"{len(self.ratios)} ratios for {len(self.layers)} layers; give one for each layer"
            )
        rise = all(low < high for low, high in pairwise((0, *self.layers, self.depth)))
        if not rise:
            raise BudgetError(
                f"layers {list(self.layers)} must rise and lie in 1..{self.depth - 1}"
            )
        fall = all(high >= low for high, low in pairwise((1.0, *self.ratios, 0.0)))
        if not fall:
            raise BudgetError(f"ratios {list(self.ratios)} must fall and lie in 0..1")

    def scaled(
        self, layers: int, stateful: frozenset[int] = frozenset(), back: int = 1
    ) -> Staircase:
        """The same in a model of `layers` layers: at the same share of the depth, to the nearest
        layer; of steps that meet before one layer the last counts. See `scaled_layer`.
        """
        if layers == self.depth and not stateful:
            return self
        if layers < 2:
            raise BudgetError(f"a model of {layers} layers has no layer to prune before")
        steps: dict[int, float] = {}
        for layer, ratio in zip(self.layers, self.ratios, strict=True):
            steps[scaled_layer(layer, self.depth, layers, stateful, back)] = ratio
        return Staircase(tuple(steps), tuple(steps.values()), layers)

    def behind(self, layer: int) -> Staircase:
        """The same without the steps before that layer; the last one is taken there where that
        would leave none.
        """
        steps = [step for step in zip(self.layers, self.ratios, strict=True) if step[0] >= layer]
        layers, ratios = zip(*(steps or [(layer, self.ratios[-1])]), strict=True)
        return Staircase(layers, ratios, self.depth)

    def stages(self, available: int) -> tuple[Stage, ...]:
        """The published shares of `available` tokens, rounded down, but a token at least."""
        # 309/576 of 576 may come out just below 309
        counts = [max(1, int(ratio * available + 1e-9)) for ratio in self.ratios]
        pairs = zip(self.layers, counts, strict=True)
        return tuple(Stage(llm(before=layer), count) for layer, count in pairs)

    def solved(self, budget: Budget, available: int, compact: bool = False) -> tuple[Stage, ...]:
        """The stages that meet a budget: every share r becomes r^x, with the same x for all.

        With x = 1 they are the published ones. Raises BudgetError where the budget is out of reach.
        """
        sites = [llm(before=layer) for layer in self.layers]
        return solve(budget, sites, available, self.depth, powers(self.ratios), compact)


def powers(ratios: Sequence[float]) -> Callable[[float], list[float]]:
    """What `solve` takes for shares: r^x for each of `ratios`, with x = (1 - t) / t, rising in t
    over 0..1; at 1/2 these ratios.
    """

    def shares(t: float) -> list[float]:
        return [ratio ** ((1 - t) / t) for ratio in ratios] if t > 0 else [0.0] * len(ratios)

    return shares


def scaled_layer(
    layer: int,
    depth: int,
    layers: int,
    stateful: frozenset[int] = frozenset(),
    back: int = 1,
) -> int:
    """Of a model of `layers` layers, the one at the share of the depth at which `layer` is in a
    model of `depth`; never the first one.

    Where layers are `stateful`, it is the nearest one whose `back`-th layer before attends, for
    that is the layer whose attention is read; of two the earlier.
    """
    place = min(layers - 1, max(1, round(layer * layers / depth)))
    places = [number for number in range(1, layers) if number - back not in stateful]
    return min(places, key=lambda number: abs(number - place), default=place)


def nearest_row(rows: Sequence[int], target: float) -> int:
    """Of the budgets `rows` that a paper gives settings for, the one nearest to `target`; of two
    the smaller.
    """
    return min(sorted(rows), key=lambda row: abs(row - target))
