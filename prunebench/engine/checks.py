"""The contract: what a plan must promise, what a pruner must answer, what a prefill must leave
behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from prunebench import registry
from prunebench.border.text import one_line
from prunebench.budget import Budget, Stage, alive, cached, spent
from prunebench.contract import Step, breach
from prunebench.engine.stream import EngineError, Stream
from prunebench.engine.trace import SampleTrace
from prunebench.models.base import Family, Unsupported
from prunebench.pruner import Pruner, contained
from prunebench.sites import INPUT, Part
from prunebench.tokens import PROBE, Keep, Signal, VisualTokens

if TYPE_CHECKING:
    from prunebench.engine.ready import Ready

BEFORE = frozenset({Signal.LAST_QUERY_ATTENTION, Signal.TEXT_ATTENTION, Signal.KEYS})
"""Signals read in the layer before the site."""

ATTENTION = BEFORE | PROBE | {Signal.NEXT_QUERY_ATTENTION}
"""Signals that exist only where an LLM layer's attention does."""


def refusal(pruner: Pruner, parts: Family, known: frozenset[Signal] = frozenset()) -> str | None:
    """Why a family cannot serve a method, whatever the budget; None where it can. Signals that are
    `known` need no family.
    """
    name = registry.name_of(pruner)
    with contained(name, "needs"):
        needs = pruner.needs
    for signal in (
        Signal
    ):  # in the order of their declaration, so that the reason does not depend on spelling
        if signal not in needs or signal in known:
            continue
        reason = parts.lacks(signal)
        if reason is not None:
            return f"{name} needs {signal}; {reason}"
    with contained(name, "site"):
        part = pruner.site().part
    if part is Part.VISION:
        return f"{name} prunes at {pruner.site()}, inside the vision encoder, which no engine seam serves yet"
    if part is Part.PIXELS and not parts.resizes:
        return (
            f"{name} shrinks the image, and {parts.name} scales every image to its own resolution"
        )
    return None


def planned(
    ready: Ready,
    budget: Budget | None,
    given: tuple[Stage, ...] | None,
    available: int,
    layers: int,
) -> tuple[Stage, ...]:
    """The stages of a sample with `available` visual tokens, `given` or planned, checked against
    the model.

    Raises Unsupported where the model cannot serve them, EngineError where they make no sense,
    BudgetError from the plan.
    """
    if available == 0:
        return ()
    name = type(ready.pruner).__name__
    stages: Any = given
    if given is None:
        with contained(name, "plan"):
            stages = ready.pruner.plan(budget, available, layers)
    if not isinstance(stages, tuple | list) or not all(
        isinstance(stage, Stage) for stage in stages
    ):
        raise EngineError(one_line(f"{name} plans {stages!r}; a plan is a tuple of Stage"))
    for before, stage in zip((None, *stages), stages, strict=False):
        _check_stage(name, ready, before, stage, available, layers)
    if budget is not None and given is None:
        _check_spending(name, budget, stages, available, layers)
    return tuple(stages)


def _check_stage(
    name: str, ready: Ready, before: Stage | None, stage: Stage, available: int, layers: int
) -> None:
    """Raise for a stage that no engine seam serves, or that makes no sense behind the one `before`
    it.
    """
    if stage.site.part is Part.PIXELS:
        raise Unsupported(f"{name} works on pixels, before the processor; run it through a sweep")
    if stage.site.part is Part.VISION:
        raise Unsupported(
            f"{name} prunes at {stage.site}, inside the vision encoder, which no engine seam serves yet"
        )
    if stage.site.layer >= layers:
        raise Unsupported(
            f"{name} prunes at {stage.site}, but the model has layers 0..{layers - 1}"
        )
    if type(stage.keep) is not int:
        raise EngineError(
            one_line(
                f"{name} plans to keep {stage.keep!r} tokens at {stage.site}; it must be a whole number"
            )
        )
    if before is not None and not (before.site < stage.site and before.keep >= stage.keep):
        raise EngineError(
            f"{name} plans {before} and then {stage}; stages go forward and never grow"
        )
    if not 1 <= stage.keep <= available:
        raise EngineError(
            f"{name} plans to keep {stage.keep} of {available} visual tokens at {stage.site}"
        )
    if stage.site == INPUT and ready.needs & ATTENTION:
        needs = ", ".join(sorted(ready.needs & ATTENTION))
        raise EngineError(
            f"{name} needs {needs} at the input, where no LLM layer has run; prune at llm:1 or later"
        )


def _check_spending(
    name: str, budget: Budget, stages: Sequence[Stage], available: int, layers: int
) -> None:
    """Raise EngineError for a plan that spends more than the budget, by more than rounding
    explains.
    """
    cost = spent(budget.kind, alive(stages, available, layers), cached(stages, available, layers))
    if cost > budget.tokens(available) + 0.5 + 1e-6:
        wanted = f"budget {budget} allows {budget.tokens(available):g}"
        raise EngineError(
            f"{name} plans to spend {cost:g} of {available} visual tokens, {wanted}: its plan() ignores the budget"
        )


def answered(
    pruner: Pruner, keep: Keep, tokens: VisualTokens, stage: Stage
) -> tuple[Tensor, Tensor | None]:
    """The survivors [K] in ascending order, on the CPU, with their merged rows [K, D] where the
    pruner merges.

    Raises EngineError for an answer that breaks the contract, with method, stage and numbers.
    """
    tensor = isinstance(keep, Keep) and isinstance(keep.index, Tensor)
    seen = Keep(keep.index.detach().cpu(), keep.features) if tensor else keep
    fault = breach(pruner, Step(stage, tokens, seen))
    if fault:
        raise EngineError(f"{type(pruner).__name__} at {stage.site}: {fault}")
    order = seen.index.argsort()
    return seen.index[order], None if keep.features is None else keep.features[
        order.to(keep.features.device)
    ]


def settled(
    pruner: Pruner,
    samples: Sequence[SampleTrace],
    visual: Tensor,
    live: Sequence[Stream],
    lengths: Sequence[int],
    drafts: int = 0,
) -> None:
    """After a prefill: every stage ran, all text is there, every layer's cache is as long as
    planned.

    `live` and `lengths` are per layer and hold `drafts` behind the prompt; fills in the samples'
    `cached`. Raises EngineError.
    """
    name = type(pruner).__name__
    for row, sample in enumerate(samples):
        for stage in sample.stages:
            if stage.site not in sample.kept:
                raise EngineError(f"{name} at {stage.site} never ran for sample {row}")
        for number, stream in enumerate(live):
            seen = visual[row][stream.source[row]]
            if len(seen) - int(seen.sum()) != sample.text + drafts:
                raise EngineError(
                    f"sample {row} lost text before layer {number}: {sample.text} tokens were there"
                )
            sample.cached.append(int(seen.sum()))
    for number, (stream, length) in enumerate(zip(live, lengths, strict=True)):
        if length != stream.width:
            raise EngineError(
                f"{name}: the cache of layer {number} holds {length} entries, {stream.width} were planned"
            )
