"""Budgets: what a run may spend on visual tokens, and the stages that spend exactly that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal, get_args

from prunebench.sites import Site

Kind = Literal["mean", "input", "kv"]

NEAREST = "~"
"""Before a budget's text: about so much."""


class BudgetError(ValueError):
    """A budget that is malformed, larger than the image, or out of a method's reach."""


@dataclass(frozen=True)
class Budget:
    """How many visual tokens a run may spend.

    `amount` is a count where it is an int and a share of the available tokens where it is a float.
    `kind` says what is counted: "mean", the tokens entering an LLM layer, averaged over layers
    (what a run pays for); "input", those entering layer 0; "kv", those in the cache after prefill,
    averaged over layers. With `nearest`, a method that cannot spend so little, or so much, spends
    the nearest that it can, in place of a BudgetError.
    """

    amount: int | float
    kind: Kind = "mean"
    nearest: bool = False

    def __post_init__(self) -> None:
        kinds = get_args(Kind)
        if self.kind not in kinds:
            raise BudgetError(
                f"budget kind {self.kind!r} is unknown; it is one of {', '.join(kinds)}"
            )
        amount = self.amount
        # to Python True is an int
        if isinstance(amount, bool) or not isinstance(amount, int | float):
            raise BudgetError(
                f"budget {amount!r} is no number; write a count such as 64 or a share such as 0.25"
            )
        if isinstance(amount, int) and amount < 1:
            raise BudgetError(f"budget {amount} is no count of tokens; it starts at 1")
        if isinstance(amount, float) and not 0 < amount <= 1:
            raise BudgetError(
                f"budget {amount} is no share; shares lie in (0, 1], counts are whole numbers"
            )

    def __str__(self) -> str:
        text = str(self.amount) if self.kind == "mean" else f"{self.kind}:{self.amount}"
        return NEAREST + text if self.nearest else text

    @classmethod
    def parse(cls, value: Budget | int | float | str) -> Budget:
        """Read 64 (tokens), 0.25 (share), "kv:0.25" or "~0.25" (the nearest that can be reached);
        raises BudgetError.
        """
        if isinstance(value, Budget):
            return value
        if not isinstance(value, str):
            return cls(value)
        kind, colon, amount = value.removeprefix(NEAREST).rpartition(":")
        if colon and not kind:
            raise BudgetError(
                f"budget {value!r} names no kind before its colon; write 0.25 or kv:0.25"
            )
        try:
            number = _number(amount)
        except ValueError:
            raise BudgetError(f"budget {value!r} is no number; write 64, 0.25 or kv:0.25") from None
        nearest = value.startswith(NEAREST)
        return cls(number, kind or "mean", nearest)  # type: ignore[arg-type]  # checked below

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
    """From `site` on at most `keep` visual tokens are alive.

    `compact` says that what a stage drops leaves the caches of the layers before it, too, and
    `compact_from` that it leaves those of this layer and the ones between.
    """

    site: Site
    keep: int
    compact: bool = False
    compact_from: int | None = None

    @property
    def compacted_from(self) -> int | None:
        """The first layer whose cache a stage cuts; None where it cuts none."""
        if self.compact_from is not None:
            return self.compact_from
        return 0 if self.compact else None


def alive(stages: Sequence[Stage], available: int, layers: int) -> list[int]:
    """[layers] visual tokens entering each LLM layer when every stage keeps what it may."""
    counts = []
    for layer in range(layers):
        limits = [stage.keep for stage in stages if stage.site.is_before(layer)]
        counts.append(min([available, *limits]))
    return counts


def cached(stages: Sequence[Stage], available: int, layers: int) -> list[int]:
    """[layers] visual tokens in each LLM layer's cache after prefill."""
    counts = alive(stages, available, layers)
    for stage in stages:
        first = stage.compacted_from
        if first is not None:
            # no later layer has more: what a stage drops does not enter those behind it
            counts[first:] = [min(count, stage.keep) for count in counts[first:]]
    return counts


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
    *,
    compact_from: int | None = None,
    fewest: int = 1,
) -> tuple[Stage, ...]:
    """The stages at `sites` whose cost is as close to `budget` as whole tokens allow.

    `shares(t)`, increasing in t over (0, 1], gives the share of the available tokens alive after
    each site; by default a geometric staircase t, t^2, ... (for one site: t). Off by at most half a
    token of the last stage, or half a token in all where that stage has no room or does not count.
    `compact` and `compact_from` are those of every stage. A stage keeps `fewest` tokens at least,
    one, or 0 where a method may drop all.

    Raises BudgetError where the layers before the first site alone spend more than the budget.
    """
    target = budget.tokens(available)
    outside = [str(site) for site in sites if not site.exists_in(layers)]
    if outside:
        listed = ", ".join(outside)
        raise BudgetError(f"{listed} lies outside the model, which has layers 0..{layers - 1}")
    if shares is None:
        shares = partial(_staircase, len(sites))
    search = _Search(
        budget.kind, tuple(sites), available, layers, shares, compact, compact_from, fewest
    )
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
    compact_from: int | None
    fewest: int

    @cached_property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """By site, in the order in which the layers meet them: its place among the sites, and how
        many layers there are up to the next one.
        """
        firsts = []
        for place, site in enumerate(self.sites):
            layer = next(layer for layer in range(self.layers) if site.is_before(layer))
            firsts.append((layer, place))
        firsts.sort()
        ends = [layer for layer, _ in firsts[1:]] + [self.layers]
        pairs = zip(firsts, ends, strict=True)
        return tuple((place, end - first) for (first, place), end in pairs)

    def stages(self, counts: Sequence[int]) -> tuple[Stage, ...]:
        """The counts at their sites."""
        pairs = zip(self.sites, counts, strict=True)
        return tuple(Stage(site, count, self.compact, self.compact_from) for site, count in pairs)

    def cost(self, counts: Sequence[int]) -> float:
        """What a run with these counts spends, in tokens: what `spent` says of their `alive` and
        `cached`, without a list of the layers, for a search asks it a hundred times.
        """
        if self.kind == "input":
            at_input = [self.available]
            for site, count in zip(self.sites, counts, strict=True):
                if site.is_before(0):
                    at_input.append(count)
            return float(min(at_input))
        if self.kind == "kv" and self.compact_from is not None:
            lengths = cached(self.stages(counts), self.available, self.layers)
            return sum(lengths) / self.layers
        if self.kind == "kv" and self.compact:
            # what any stage drops has left every cache
            return float(min([self.available, *counts]))
        entering = self.available
        total = entering * (self.layers - sum(length for _, length in self.spans))
        for place, length in self.spans:
            entering = min(entering, counts[place])
            total += entering * length
        return total / self.layers

    def slope(self, counts: Sequence[int]) -> float:
        """What one token more or less at the last stage costs; 0 where it has room for neither."""
        *others, last = counts
        # a stage never keeps more than the one before it
        ceiling = min([self.available, *others[-1:]])
        neighbour = last + 1 if last < ceiling else last - 1
        if neighbour < self.fewest:
            return 0.0
        return self.distance([*others, neighbour], self.cost(counts))

    def counts_at(self, t: float) -> list[int]:
        """The counts at one point of the ladder of shares, at least the fewest each."""
        counts = []
        for share in self.shares(t):
            whole = max(self.fewest, round(share * self.available))
            counts.append(min(self.available, whole))
        return counts

    def check_reach(self, budget: Budget, target: float) -> None:
        """Raises BudgetError where no point of the ladder costs about as much as the target, unless
        the nearest one will do.
        """
        if budget.nearest:
            return
        fewest = self.counts_at(0.0)
        least = self.cost(fewest)
        most = self.cost(self.counts_at(1.0))
        label = f"budget {budget} ({target:g} of {self.available} visual tokens)"
        if target < least - 0.5 * self.slope(fewest):
            listed = ", ".join(map(str, self.sites))
            rest = "a single token" if self.fewest else "no token"
            raise BudgetError(
                f"{label} is out of reach at {listed}: "
                f"with {rest} kept there the run still spends {least:g}"
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
        fewest, most = sum(self.counts_at(low)), sum(self.counts_at(high))
        for _ in range(60):  # halvings; a float tells no more apart
            # counts rise with t: where their sums differ by one, there are none between
            if most - fewest <= 1:
                break
            middle = (low + high) / 2
            counts = self.counts_at(middle)
            if self.cost(counts) <= target:
                low, fewest = middle, sum(counts)
            else:
                high, most = middle, sum(counts)
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
        return [*others, min(ceiling, max(self.fewest, moved))]


def _staircase(steps: int, t: float) -> list[float]:
    """t, t^2, ...: every stage keeps the same share of what the one before it left."""
    return [t ** (step + 1) for step in range(steps)]


def _number(text: str) -> int | float:
    """An int where the text is one, else a float; raises ValueError."""
    try:
        return int(text)
    except ValueError:
        return float(text)
