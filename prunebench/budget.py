"""Budgets: what a run may spend on visual tokens, and the stages that spend exactly that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from prunebench.sites import Part, Site

Kind = Literal["mean", "input", "kv"]


class BudgetError(ValueError):
    """A budget that is malformed, larger than the image, or out of a method's reach."""


@dataclass(frozen=True)
class Budget:
    """How many visual tokens a run may spend.

    `amount` is a count where it is an int and a share of the available tokens where it is a float.
    `kind` says what is counted: "mean", the tokens entering an LLM layer, averaged over layers
    (what a run pays for); "input", those entering layer 0; "kv", those in the cache after prefill,
    averaged over layers.
    """

    amount: int | float
    kind: Kind = "mean"

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise BudgetError(
                f"budget kind {self.kind!r} is unknown; it is one of {', '.join(get_args(Kind))}"
            )
        if isinstance(self.amount, bool) or not isinstance(self.amount, int | float):
            raise BudgetError(
                f"budget {self.amount!r} is no number; write a count such as 64 or a share such as 0.25"
            )
        if isinstance(self.amount, int) and self.amount < 1:
            raise BudgetError(f"budget {self.amount} is no count of tokens; it starts at 1")
        if isinstance(self.amount, float) and not 0 < self.amount <= 1:
            raise BudgetError(
                f"budget {self.amount} is no share; shares lie in (0, 1], counts are whole numbers"
            )

    def __str__(self) -> str:
        return str(self.amount) if self.kind == "mean" else f"{self.kind}:{self.amount}"

    @classmethod
    def parse(cls, value: Budget | int | float | str) -> Budget:
        """Read 64 (tokens), 0.25 (share) or "kv:0.25"; raises BudgetError."""
        if isinstance(value, Budget):
            return value
        if not isinstance(value, str):
            return cls(value)
        kind, colon, amount = value.rpartition(":")
        if colon and not kind:
            raise BudgetError(
                f"budget {value!r} names no kind before its colon; write 0.25 or kv:0.25"
            )
        try:
            number: int | float = int(amount)
        except ValueError:
            try:
                number = float(amount)
            except ValueError:
                raise BudgetError(
                    f"budget {value!r} is no number; write 64, 0.25 or kv:0.25"
                ) from None
        return cls(number, kind or "mean")  # type: ignore[arg-type]  # checked in __post_init__

    def tokens(self, available: int) -> float:
        """The target in tokens of an image that has `available`; raises BudgetError where that is
        more than there are.
        """
        if isinstance(self.amount, int):
            if self.amount > available:
                raise BudgetError(
                    f"budget {self} asks for more than the {available} visual tokens there are"
                )
            return float(self.amount)
        return self.amount * available


@dataclass(frozen=True)
class Stage:
    """From `site` on at most `keep` visual tokens are alive; `compact` also removes the dropped
    from earlier caches.
    """

    site: Site
    keep: int
    compact: bool = False


def alive(stages: Sequence[Stage], available: int, layers: int) -> list[int]:
    """[layers] visual tokens entering each LLM layer when every stage keeps what it may."""
    return [
        min([available, *(s.keep for s in stages if _entered(s, layer))]) for layer in range(layers)
    ]


def cached(stages: Sequence[Stage], available: int, layers: int) -> list[int]:
    """[layers] visual tokens in each LLM layer's cache after prefill."""
    compacted = [s.keep for s in stages if s.compact]
    return [min([count, *compacted]) for count in alive(stages, available, layers)]


def spent(kind: Kind, entering: Sequence[float], caches: Sequence[float]) -> float:
    """What a run spent, in tokens, from the counts entering each layer and left in each layer's
    cache.
    """
    if kind == "input":
        return float(entering[0])
    counts = entering if kind == "mean" else caches
    return sum(counts) / len(counts)


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
    outside = [str(site) for site in sites if site.part is Part.LLM and site.layer >= layers]
    if outside:
        raise BudgetError(
            f"{', '.join(outside)} lies outside the model, which has layers 0..{layers - 1}"
        )
    ladder = shares if shares is not None else lambda t: [t ** (i + 1) for i in range(len(sites))]

    def stages(counts: Sequence[int]) -> tuple[Stage, ...]:
        return tuple(Stage(site, count, compact) for site, count in zip(sites, counts, strict=True))

    def cost(counts: Sequence[int]) -> float:
        plan = stages(counts)
        return spent(budget.kind, alive(plan, available, layers), cached(plan, available, layers))

    def counts_at(t: float) -> list[int]:
        return [min(available, max(1, round(share * available))) for share in ladder(t)]

    least, most = cost(counts_at(0.0)), cost(counts_at(1.0))
    if target < least - 0.5 * _slope(cost, counts_at(0.0), available):
        raise BudgetError(
            f"budget {budget} ({target:g} of {available} visual tokens) is out of reach at "
            f"{', '.join(map(str, sites))}: with a single token kept there the run still spends {least:g}"
        )
    if target > most + 0.5:
        raise BudgetError(
            f"budget {budget} ({target:g} of {available} visual tokens) is above what this method ever spends, {most:g}"
        )
    low, high = 0.0, 1.0
    for _ in range(60):
        if sum(counts_at(high)) - sum(counts_at(low)) <= 1:
            break  # nothing lies between
        middle = (low + high) / 2
        low, high = (middle, high) if cost(counts_at(middle)) <= target else (low, middle)

    def refined(counts: list[int]) -> list[int]:
        """The counts with the last stage moved as near to the target as the stage before it lets
        it.
        """
        step = _slope(cost, counts, available)
        if step == 0:
            return counts
        ceiling = counts[-2] if len(counts) > 1 else available
        last = counts[-1] + (target - cost(counts)) / step
        return [*counts[:-1], min(ceiling, max(1, round(last)))]

    if most <= target:
        return stages(refined(counts_at(1.0)))
    below = refined(counts_at(low))
    if abs(cost(below) - target) <= 0.5 * _slope(cost, below, available):
        return stages(below)
    # the last stage cannot make up for the others: just above, these have a token more
    above = refined(counts_at(high))
    return stages(min(below, above, key=lambda counts: abs(cost(counts) - target)))


def _entered(stage: Stage, layer: int) -> bool:
    return stage.site.part is not Part.LLM or stage.site.layer <= layer


def _slope(cost: Callable[[Sequence[int]], float], counts: Sequence[int], available: int) -> float:
    """What one token more or less at the last stage costs."""
    last = counts[-1]
    other = last + 1 if last < available and (len(counts) == 1 or last < counts[-2]) else last - 1
    if other < 1:
        return 0.0
    return abs(cost([*counts[:-1], other]) - cost(counts))
