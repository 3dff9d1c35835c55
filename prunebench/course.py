"""Course: a sample's stages on their way, for a method whose plan depends on what it has seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from prunebench.budget import Budget, BudgetError, Stage, alive, cached, solve, spent


@dataclass(frozen=True)
class Course:
    """Where a sample of `available` visual tokens in a model of `layers` LLM layers stands.

    `past` are its stages behind, with what they really kept, `ahead` those to come with what is
    planned for them, the one about to run first. `budget` None means the method's own.
    """

    budget: Budget | None
    available: int
    layers: int
    past: tuple[Stage, ...]
    ahead: tuple[Stage, ...]

    @property
    def alive(self) -> int:
        """Visual tokens that are left so far."""
        return self.past[-1].keep if self.past else self.available

    def spent(self, ahead: Sequence[Stage]) -> float:
        """What the whole run spends with these stages ahead, in tokens, as its budget counts."""
        kind = "mean" if self.budget is None else self.budget.kind
        stages = [*self.past, *ahead]
        sizes = self.available, self.layers
        return spent(kind, alive(stages, *sizes), cached(stages, *sizes))

    def solved(self, shares: Callable[[float], Sequence[float]]) -> tuple[Stage, ...]:
        """The stages ahead with the counts whose cost, with that of the stages behind, is as close
        to the budget as whole tokens allow; `shares(t)`, increasing in t over (0, 1], gives the
        share of the available tokens alive after each.

        Raises BudgetError where the budget is out of reach, or there is none.
        """
        if self.budget is None:
            raise BudgetError("there is no budget to meet")
        before = [stage.keep / self.available for stage in self.past]
        sites = [stage.site for stage in (*self.past, *self.ahead)]

        def every(t: float) -> list[float]:
            # no stage has more than the ones before it left
            most = before[-1] if before else 1.0
            return [*before, *(min(share, most) for share in shares(t))]

        fewest = min([1, *(stage.keep for stage in self.past)])
        counts = solve(self.budget, sites, self.available, self.layers, every, fewest=fewest)
        pairs = zip(self.ahead, counts[len(self.past) :], strict=True)
        return tuple(replace(stage, keep=count.keep) for stage, count in pairs)


def misplanned(course: Course, ahead: object, dynamic: bool) -> str:
    """What is wrong with stages that take the place of those ahead; empty where nothing is."""
    if not isinstance(ahead, tuple | list) or not all(isinstance(one, Stage) for one in ahead):
        return f"replan gave {ahead!r}; it must give a tuple of Stage"
    due = [replace(stage, keep=0) for stage in course.ahead]
    if [replace(stage, keep=0) for stage in ahead] != due:
        sites = ", ".join(str(stage.site) for stage in course.ahead)
        return f"replan moves the stages ahead, which are at {sites}; it may change what they keep"
    counts = [course.alive, *(stage.keep for stage in ahead)]
    whole = all(type(count) is int and count >= 0 for count in counts)
    if not whole or counts != sorted(counts, reverse=True):
        return f"replan keeps {counts[1:]} of {counts[0]}; counts are whole and never grow"
    if course.budget is None or course.budget.nearest:
        return ""
    target, cost = course.budget.tokens(course.available), course.spent(ahead)
    # half a token for rounding to whole ones, or what the plan before was off
    slack = max(0.5, abs(course.spent(course.ahead) - target)) + 1e-6
    if cost > target + 0.5 + 1e-6 or (cost < target - slack and not dynamic):
        return f"replan spends {cost:g}; budget {course.budget} asks for {target:g}"
    return ""
