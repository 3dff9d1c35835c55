"""The search for a budget's stages as it was first written: it lists every layer at every step.

Slow and plain; `prunebench.solve` finds the same stages and refuses with the same words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from prunebench.budget import Budget, BudgetError, Kind, Stage, alive, cached, spent
from prunebench.sites import Site


def solve(
    budget: Budget,
    sites: Sequence[Site],
    available: int,
    layers: int,
    shares: Callable[[float], Sequence[float]] | None = None,
    compact: bool = False,
) -> tuple[Stage, ...]:
    """The stages at `sites` whose cost is as close to `budget` as whole tokens allow.

    `shares(t)`, increasing in t over (0, 1], gives the share of the available tokens alive after
    each site; by default a geometric staircase t, t^2, ... (for one site: t). Off by at most half a
    token of the last stage, or half a token in all where that stage has no room or does not count.

    Raises BudgetError where the layers before the first site alone spend more than the budget.
    """
    target = budget.tokens(available)
    outside = [str(site) for site in sites if not site.exists_in(layers)]
    if outside:
        listed = ", ".join(outside)
        raise BudgetError(f"{listed} lies outside the model, which has layers 0..{layers - 1}")
    if shares is None:
        shares = partial(_staircase, len(sites))
    search = _Search(budget.kind, tuple(sites), available, layers, shares, compact)
    search.check_reach(budget, target)
    return search.stages(search.closest(target))


@dataclass(frozen=True)
class _Search:
    """How many tokens every stage keeps, and what that costs; what `solve` looks for.

    `counts` are whole tokens, one for every site.
    """

    kind: Kind
    sites: tuple[Site, ...]
    available: int
    layers: int
    shares: Callable[[float], Sequence[float]]
    compact: bool

    def stages(self, counts: Sequence[int]) -> tuple[Stage, ...]:
        """The counts at their sites."""
        pairs = zip(self.sites, counts, strict=True)
        return tuple(Stage(site, count, self.compact) for site, count in pairs)

    def cost(self, counts: Sequence[int]) -> float:
        """What a run with these counts spends, in tokens."""
        stages = self.stages(counts)
        entering = alive(stages, self.available, self.layers)
        caches = cached(stages, self.available, self.layers)
        return spent(self.kind, entering, caches)

    def slope(self, counts: Sequence[int]) -> float:
        """What one token more or less at the last stage costs; 0 where it has room for neither."""
        *others, last = counts
        # a stage never keeps more than the one before it
        ceiling = min([self.available, *others[-1:]])
        neighbour = last + 1 if last < ceiling else last - 1
        if neighbour < 1:
            return 0.0
        return self.distance([*others, neighbour], self.cost(counts))

    def counts_at(self, t: float) -> list[int]:
        """The counts at one point of the ladder of shares, at least one token each."""
        counts = []
        for share in self.shares(t):
            whole = max(1, round(share * self.available))
            counts.append(min(self.available, whole))
        return counts

    def check_reach(self, budget: Budget, target: float) -> None:
        """Raises BudgetError where no point of the ladder costs about as much as the target."""
        fewest = self.counts_at(0.0)
        least = self.cost(fewest)
        most = self.cost(self.counts_at(1.0))
        label = f"budget {budget} ({target:g} of {self.available} visual tokens)"
        if target < least - 0.5 * self.slope(fewest):
            listed = ", ".join(map(str, self.sites))
            raise BudgetError(
                f"{label} is out of reach at {listed}: "
                f"with a single token kept there the run still spends {least:g}"
            )
        # half a token is what rounding to whole ones may cost
        if target > most + 0.5:
            raise BudgetError(f"{label} is above what this method ever spends, {most:g}")

    def closest(self, target: float) -> list[int]:
        """The counts whose cost is closest to the target."""
        most = self.counts_at(1.0)
        if self.cost(most) <= target:
            return self.refined(most, target)
        low, high = self.bracket(target)
        below = self.refined(self.counts_at(low), target)
        if self.distance(below, target) <= 0.5 * self.slope(below):
            return below
        # the last stage cannot make up for the others: just above, these have a token more
        above = self.refined(self.counts_at(high), target)
        if self.distance(above, target) < self.distance(below, target):
            return above
        return below

    def distance(self, counts: Sequence[int], target: float) -> float:
        """How far their cost is from the target."""
        return abs(self.cost(counts) - target)

    def bracket(self, target: float) -> tuple[float, float]:
        """Two points of the ladder, one on each side of the target, with no counts between."""
        low, high = 0.0, 1.0
        for _ in range(60):  # halvings; a float tells no more apart
            # counts rise with t: where their sums differ by one, there are none between
            between = sum(self.counts_at(high)) - sum(self.counts_at(low))
            if between <= 1:
                break
            middle = (low + high) / 2
            if self.cost(self.counts_at(middle)) <= target:
                low = middle
            else:
                high = middle
        return low, high

    def refined(self, counts: list[int], target: float) -> list[int]:
        """The counts with the last stage moved as near to the target as the stage before it lets
        it.
        """
        step = self.slope(counts)
        if step == 0:
            return counts
        *others, last = counts
        ceiling = others[-1] if others else self.available
        # the cost is linear in the last stage's count, so that one step gets there
        moved = round(last + (target - self.cost(counts)) / step)
        return [*others, min(ceiling, max(1, moved))]


def _staircase(steps: int, t: float) -> list[float]:
    """t, t^2, ...: every stage keeps the same share of what the one before it left."""
    return [t ** (step + 1) for step in range(steps)]
