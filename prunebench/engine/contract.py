"""The contract: what a plan must promise, what a pruner must answer, what a prefill must leave behind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from prunebench import registry
from prunebench.budget import Budget, Stage, alive, cached, spent
from prunebench.engine.stream import EngineError, Stream
from prunebench.engine.trace import SampleTrace
from prunebench.models.base import DecoderParts, Unsupported
from prunebench.pruner import Pruner
from prunebench.sites import INPUT, Part
from prunebench.tokens import PROBE, Keep, Signal, VisualTokens
from prunebench.walk import Step, breach

BEFORE = frozenset({Signal.LAST_QUERY_ATTENTION, Signal.TEXT_ATTENTION, Signal.KEYS})
"""Signals read in the layer before the site."""

ATTENTION = BEFORE | PROBE | {Signal.NEXT_QUERY_ATTENTION}
"""Signals that exist only where an LLM layer's attention does."""


def refusal(pruner: Pruner, parts: DecoderParts, known: frozenset[Signal] = frozenset()) -> str | None:
    """Why a family cannot serve a method, whatever the budget; None where it can. Signals that are `known` need no family."""
    name = registry.name_of(pruner)
    for signal in Signal:  # in the order of their declaration, so that the reason does not depend on spelling
        if signal not in pruner.needs or signal in known:
            continue
        reason = parts.lacks(signal)
        if reason is not None:
            return f"{name} needs {signal}; {reason}"
    part = pruner.site().part
    if part is Part.VISION:
        return f"{name} prunes at {pruner.site()}, inside the vision encoder, which no engine seam serves yet"
    if part is Part.PIXELS and not getattr(parts, "resizes", False):
        return f"{name} shrinks the image, and {getattr(parts, 'name', 'this model')} scales every image to its own resolution"
    return None


def planned(
    pruner: Pruner, budget: Budget | None, given: tuple[Stage, ...] | None, available: int, layers: int, config: Any
) -> tuple[Stage, ...]:
    """The stages of a sample with `available` visual tokens, `given` or planned, checked against the model.

    Raises Unsupported where the model cannot serve them, EngineError where they make no sense, BudgetError from the plan.
    """
    if available == 0:
        return ()
    stages = given if given is not None else pruner.plan(budget, available, layers)
    name = type(pruner).__name__
    for before, stage in zip((None, *stages), stages, strict=False):
        if stage.site.part is Part.PIXELS:
            raise Unsupported(f"{name} works on pixels, before the processor; run it through a sweep")
        if stage.site.part is Part.VISION:
            raise Unsupported(f"{name} prunes at {stage.site}, inside the vision encoder, which no engine seam serves yet")
        if stage.site.layer >= layers:
            raise Unsupported(f"{name} prunes at {stage.site}, but the model has layers 0..{layers - 1}")
        if before is not None and not (before.site < stage.site and before.keep >= stage.keep):
            raise EngineError(f"{name} plans {before} and then {stage}; stages go forward and never grow")
        if not 1 <= stage.keep <= available:
            raise EngineError(f"{name} plans to keep {stage.keep} of {available} visual tokens at {stage.site}")
        if stage.site == INPUT and pruner.needs & ATTENTION:
            needs = ", ".join(sorted(pruner.needs & ATTENTION))
            raise EngineError(f"{name} needs {needs} at the input, where no LLM layer has run; prune at llm:1 or later")
    sliding = "sliding_attention" in (getattr(config, "layer_types", None) or ())
    if sliding and any(stage.site.part is Part.LLM for stage in stages):
        raise Unsupported("the model has sliding-window layers, where dropping is not the same as hiding")
    if budget is not None and given is None:
        cost = spent(budget.kind, alive(stages, available, layers), cached(stages, available, layers))
        if cost > budget.tokens(available) + 0.5 + 1e-6:
            wanted = f"budget {budget} allows {budget.tokens(available):g}"
            raise EngineError(
                f"{name} plans to spend {cost:g} of {available} visual tokens, {wanted}: its plan() ignores the budget"
            )
    return tuple(stages)


def answered(pruner: Pruner, keep: Keep, tokens: VisualTokens, stage: Stage) -> tuple[Tensor, Tensor | None]:
    """The survivors [K] in ascending order, on the CPU, with their merged rows [K, D] where the pruner merges.

    Raises EngineError for an answer that breaks the contract, with method, stage and numbers.
    """
    seen = Keep(keep.index.detach().cpu(), keep.features) if isinstance(keep, Keep) else keep
    fault = breach(pruner, Step(stage, tokens, seen))
    if fault:
        raise EngineError(f"{type(pruner).__name__} at {stage.site}: {fault}")
    order = seen.index.argsort()
    return seen.index[order], None if keep.features is None else keep.features[order.to(keep.features.device)]


def settled(
    pruner: Pruner, samples: Sequence[SampleTrace], visual: Tensor, live: Sequence[Stream], lengths: Sequence[int]
) -> None:
    """After a prefill: every stage ran, all text is there, every layer's cache is as long as planned.

    `live` and `lengths` are per layer; fills in the samples' `cached`. Raises EngineError.
    """
    name = type(pruner).__name__
    for row, sample in enumerate(samples):
        for stage in sample.stages:
            if stage.site not in sample.kept:
                raise EngineError(f"{name} at {stage.site} never ran for sample {row}")
        for number, stream in enumerate(live):
            seen = visual[row][stream.source[row]]
            if len(seen) - int(seen.sum()) != sample.text:
                raise EngineError(f"sample {row} lost text before layer {number}: {sample.text} tokens were there")
            sample.cached.append(int(seen.sum()))
    for number, (stream, length) in enumerate(zip(live, lengths, strict=True)):
        if length != stream.width:
            raise EngineError(f"{name}: the cache of layer {number} holds {length} entries, {stream.width} were planned")
