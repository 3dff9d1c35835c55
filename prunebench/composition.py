"""Composition: methods that work together in one pass, and add-ons that wrap a method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

from torch import Tensor

from prunebench.budget import Budget, BudgetError, Stage, alive, cached, spent
from prunebench.course import Course
from prunebench.pruner import Facts, Positions, Pruner, Unsupported
from prunebench.reads import Place, Reads
from prunebench.signals import Signal
from prunebench.sites import Part, Site
from prunebench.steps import DecodingStep
from prunebench.tokens import Keep, VisualTokens

USUAL_DEPTH = 32
"""The LLM layers of a model that nobody has named."""

HALVINGS = 40
"""Steps of the search for a share, which tells tokens apart in any image."""


@dataclass(frozen=True)
class AddOn(Pruner):
    """A method that wraps another one, its `base`, and lets it choose.

    A file in the folder of add-ons defines one; in "method+addon" the method is its base. It reads
    what the base reads, where the base reads it, unless it says otherwise.
    """

    base: Pruner = field(compare=False, kw_only=True)

    @property
    def reads(self) -> Reads:
        return self.base.reads

    @property
    def stand_ins(self) -> Mapping[Signal, Signal | None]:
        return self.base.stand_ins

    @property
    def port(self) -> str:
        return self.base.port

    def site(self) -> Site:
        return self.base.site()

    def prepared(self, facts: Facts) -> Self:
        return replace(self, base=self.base.prepared(facts))

    def decodes_at(self) -> Site | None:
        return self.base.decodes_at()

    def decode(self, step: DecodingStep) -> Tensor | None:
        return self.base.decode(step)


@dataclass(frozen=True)
class Split:
    """One budget shared by two methods: what each is given, and the stages that come of it."""

    budgets: tuple[Budget | None, Budget | None]
    stages: tuple[tuple[Stage, ...], tuple[Stage, ...]]


@dataclass(frozen=True)
class Composite(Pruner):
    """Two methods in one pass: `second` works on what `first` has left.

    Each is given the same share s of the tokens that it finds, s of all for the first and s of what
    that leaves for the second, as a budget of the kind that was asked for; s is such that the whole
    run spends the budget, and what rounding leaves over is the second's. Where the first prunes at
    the input, s is the square root of the budget's share. An "input" budget, for which a later
    method does not count, is the first's alone, and the second runs as its paper does. Without a
    budget both do.

    The stages of the second lie behind those of the first. Each sees its own signals and keeps its
    own memo, and position ids are treated at each stage as the method does that has it.
    """

    first: Pruner
    second: Pruner
    depth: int = field(default=USUAL_DEPTH, compare=False)
    _splits: dict[Any, Split] = field(default_factory=dict, compare=False, repr=False, kw_only=True)

    work_by_shape = True

    def __post_init__(self) -> None:
        for part in (self.first, self.second):
            if part.site().part is Part.PIXELS:
                raise ValueError(
                    f"{type(part).__name__} shrinks the image before any token exists; it works "
                    "with no other method"
                )
        if self.first.decodes_at() is not None and self.second.decodes_at() is not None:
            raise ValueError("two methods cannot both say what decoding attends to")
        _ = self.reads  # raises ValueError where they cannot be shown things together

    @property
    def dynamic(self) -> bool:  # type: ignore[override]  # of two, which differ
        return self.first.dynamic or self.second.dynamic

    @property
    def reads(self) -> Reads:
        parts = (self.first, self.second)
        each = [_only_at(part.reads, _sites(part, self.depth)) for part in parts]
        return each[0] | each[1]

    @property
    def stand_ins(self) -> Mapping[Signal, Signal | None]:
        return {**self.first.stand_ins, **self.second.stand_ins}

    @property
    def port(self) -> str:
        return "; ".join(text for text in (self.first.port, self.second.port) if text)

    def site(self) -> Site:
        return self.first.site()

    def positions_at(self, site: Site) -> Positions:
        return self._owner(site).positions_at(site)

    def prepared(self, facts: Facts) -> Self:
        """Both made ready; raises Unsupported where the second does not work behind the first."""
        first, second = self.first.prepared(facts), self.second.prepared(facts)
        ready = replace(self, first=first, second=second, depth=facts.layers, _splits={})
        before, behind = _sites(first, facts.layers), _sites(second, facts.layers)
        if max(before) >= min(behind):
            raise Unsupported(
                f"{_name(second)} prunes at {min(behind)}, which does not lie behind "
                f"{_name(first)}'s {max(before)}; stages go forward, and a site has one"
            )
        return ready

    # ---- the budget ------------------------------------------------------------------------------

    def plan(self, budget: Budget | None, available: int, layers: int) -> tuple[Stage, ...]:
        """The stages of both, in order; raises BudgetError where they cannot meet the budget."""
        first, second = self.split(budget, available, layers).stages
        return first + second

    def split(self, budget: Budget | None, available: int, layers: int) -> Split:
        """How the two share a budget; raises BudgetError."""
        key = budget, available, layers
        if key not in self._splits:
            self._splits[key] = self._divided(budget, available, layers)
        return self._splits[key]

    def _divided(self, budget: Budget | None, available: int, layers: int) -> Split:
        if budget is None:
            first = tuple(self.first.plan(None, available, layers))
            return Split((None, None), (first, self._behind(first, None, available, layers)))

        def evenly(share: float) -> tuple[Split, float]:
            own = Budget(share, budget.kind)
            first = tuple(self.first.plan(own, available, layers))
            return self._joined(first, own, share, budget, available, layers)

        best = _largest(evenly, budget, available, f"{_name(self.first)}+{_name(self.second)}")
        return self._filled(best, budget, available, layers)

    def _filled(self, split: Split, budget: Budget, available: int, layers: int) -> Split:
        """The same for the first, and more for the second where that is within the budget."""
        first, own = split.stages[0], split.budgets[0]

        def more(share: float) -> tuple[Split, float]:
            return self._joined(first, own, share, budget, available, layers)

        least = 0.0 if split.budgets[1] is None else float(split.budgets[1].amount)
        best = split if split.stages[1] else None
        return _largest(more, budget, available, _name(self.second), best, least)

    def _joined(
        self,
        first: tuple[Stage, ...],
        own: Budget | None,
        share: float,
        budget: Budget,
        available: int,
        layers: int,
    ) -> tuple[Split, float]:
        """The first's stages with those that a share gives the second, and what a run spends."""
        # an input budget counts no later method
        second = None if budget.kind == "input" else Budget(share, budget.kind)
        stages = self._behind(first, second, available, layers)
        every = (*first, *stages)
        costs = alive(every, available, layers), cached(every, available, layers)
        return Split((own, second), (first, stages)), spent(budget.kind, *costs)

    def _behind(
        self, first: Sequence[Stage], budget: Budget | None, available: int, layers: int
    ) -> tuple[Stage, ...]:
        """The second's stages behind those of the first."""
        left = min([available, *(stage.keep for stage in first)])
        # a first that may keep nothing leaves nothing to plan for
        return tuple(self.second.plan(budget, left, layers)) if left else ()

    # ---- at a stage ------------------------------------------------------------------------------

    def _owner(self, site: Site) -> Pruner:
        """The method that has the stage at a site."""
        return self.second if site >= self._boundary else self.first

    @cached_property
    def _boundary(self) -> Site:
        """The second's first site."""
        return min(_sites(self.second, self.depth))

    def _memo(self, memo: dict[str, Any], owner: Pruner) -> dict[str, Any]:
        """A method's own part of what a sample's stages share."""
        own: dict[str, Any] = memo.setdefault("second" if owner is self.second else "first", {})
        return own

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        owner = self._owner(stage.site)
        return owner.prune(replace(tokens, memo=self._memo(tokens.memo, owner)), stage)

    def explain(self, tokens: VisualTokens, stage: Stage) -> dict[str, Tensor]:
        owner = self._owner(stage.site)
        return owner.explain(replace(tokens, memo=self._memo(tokens.memo, owner)), stage)

    @property
    def replans(self) -> bool:
        return self.first.replans or self.second.replans

    def replan(self, tokens: VisualTokens, course: Course) -> tuple[Stage, ...]:
        """What the method that has the stage says of its own; where that is the first, the second
        is given what its budget leaves.
        """
        owner = self._owner(course.ahead[0].site)
        tokens = replace(tokens, memo=self._memo(tokens.memo, owner))
        of_first, of_second = self.split(course.budget, course.available, course.layers).budgets
        if owner is self.second:
            past = [stage for stage in course.past if self._owner(stage.site) is self.second]
            before = course.past[: len(course.past) - len(past)]
            left = before[-1].keep if before else course.available
            return owner.replan(
                tokens, replace(course, budget=of_second, available=left, past=tuple(past))
            )
        ahead = [stage for stage in course.ahead if self._owner(stage.site) is self.first]
        own = replace(course, budget=of_first, ahead=tuple(ahead))
        stages = tuple(owner.replan(tokens, own))
        if course.budget is None:
            behind = self._behind(stages, None, course.available, course.layers)
        else:
            unfilled = Split((of_first, None), ((*course.past, *stages), ()))
            split = self._filled(unfilled, course.budget, course.available, course.layers)
            behind = split.stages[1]
        return stages + behind

    # ---- decoding --------------------------------------------------------------------------------

    def decodes_at(self) -> Site | None:
        return self.first.decodes_at() or self.second.decodes_at()

    def decode(self, step: DecodingStep) -> Tensor | None:
        owner = self.second if self.first.decodes_at() is None else self.first
        return owner.decode(replace(step, memo=self._memo(step.memo, owner)))


def _largest(
    search: Callable[[float], tuple[Split, float]],
    budget: Budget,
    available: int,
    name: str,
    best: Split | None = None,
    least: float = 0.0,
) -> Split:
    """The split of the largest share at which a run spends no more than the budget, or half a token
    more where that is nearer; `best` is one that is known, with the share `least`.

    Raises BudgetError where every share that the methods take spends more.
    """
    target, reason = budget.tokens(available), "it spends more"
    low, high, below = least, 1.0, float("-inf")
    above: tuple[Split, float] | None = None
    try:
        above = search(high)
    except BudgetError as error:
        reason = str(error)
    if above is not None and above[1] <= target:
        return above[0]
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        try:
            split, cost = search(middle)
        except BudgetError as error:
            low, reason = middle, str(error)
            continue
        if cost <= target:
            low, best, below = middle, split, cost
        else:
            high, above = middle, (split, cost)
    if above is not None and above[1] - target <= min(0.5, target - below):
        return above[0]
    if best is not None:
        return best
    if above is not None and budget.nearest:
        return above[0]
    raise BudgetError(f"budget {budget} is out of reach of {name}: {reason}")


def _sites(pruner: Pruner, layers: int) -> list[Site]:
    """The seams at which a method has stages in a model of so many layers."""
    for budget in (Budget(0.5, nearest=True), None):
        try:
            stages = pruner.plan(budget, 576, layers)
        except (BudgetError, Unsupported):  # Unsupported: it waits to be made ready
            continue
        if stages:
            return [stage.site for stage in stages]
    return [pruner.site()]


def _only_at(reads: Reads, sites: Sequence[Site]) -> Reads:
    """What a method reads, restricted to its own stages."""
    places: dict[Signal, frozenset[Place]] = {}
    for signal in reads.signals:
        named = reads.places.get(signal)
        there = frozenset(site for site in sites if signal.exists_at(site))
        places[signal] = named if named is not None else there or frozenset(sites)
    return replace(reads, places=places)


def _name(pruner: Pruner) -> str:
    """A method's name in words about it: its file's stem."""
    card = type(pruner).__dict__.get("card")
    return type(pruner).__name__ if card is None else str(card.name)


def members(pruner: Pruner) -> list[Pruner]:
    """The methods that one is composed of, in the order of its name; itself where it is one."""
    if isinstance(pruner, Composite):
        return [*members(pruner.first), *members(pruner.second)]
    if isinstance(pruner, AddOn):
        return [*members(pruner.base), pruner]
    return [pruner]


def joined(parts: Sequence[tuple[type[Pruner], Callable[..., Pruner]]]) -> Pruner:
    """One method of several in the order of their name, each its class and what builds it.

    An add-on wraps what stands before it. Raises ValueError for an add-on without a method before
    it, and for more than two methods.
    """
    methods: list[Pruner] = []
    for kind, build in parts:
        if not issubclass(kind, AddOn):
            methods.append(build())
        elif not methods:
            raise ValueError("an add-on wraps the method that is named before it")
        else:
            methods[-1] = build(base=methods[-1])
    if len(methods) > 2:
        raise ValueError(f"{len(methods)} methods are joined; one budget is shared by two at most")
    return methods[0] if len(methods) == 1 else Composite(methods[0], methods[1])
