"""Checks: what a call must be, what a plan must promise, what a prefill must leave behind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from prunebench.border.text import one_line
from prunebench.budget import Budget, Stage, alive, cached, spent
from prunebench.engine.attention import check_kernel
from prunebench.engine.call import Call
from prunebench.engine.ready import Ready
from prunebench.engine.setup import Setup
from prunebench.engine.stream import EngineError, Stream
from prunebench.engine.trace import SampleTrace
from prunebench.models.base import Unsupported
from prunebench.pruner import Pruner, contained
from prunebench.sites import Part, Site


def check_call(setup: Setup, call: Call, embeds: Tensor) -> None:
    """Raise EngineError for a prefill that no seam serves, before it fails as something else."""
    shape = tuple(embeds.shape[:2])
    if shape != tuple(call.visual.shape):
        raise EngineError(
            f"the decoder got {shape} embeddings for a prompt of {tuple(call.visual.shape)}; "
            "prompts in chunks (chunked prefill) and tokens that a wrapper adds to the prompt "
            "(prompt tuning) are not supported"
        )
    check_kernel(setup.config, setup.kernel, probes=setup.probes)
    if setup.observer is not None:
        setup.observer.check_kernels()
    parts = [setup.decoder, *setup.layers] if setup.decoder.training else []
    if any(getattr(part, "gradient_checkpointing", False) for part in parts):
        raise EngineError(
            "gradient checkpointing is on, which drops the cache while training: call "
            "model.gradient_checkpointing_disable() or model.eval()"
        )


def planned(
    ready: Ready,
    budget: Budget | None,
    plan: tuple[Stage, ...] | None,
    available: int,
    layers: int,
) -> tuple[Stage, ...]:
    """The stages of a sample with `available` visual tokens, checked against the model.

    They are the caller's `plan`, or else what the method plans for the budget.

    Raises Unsupported where the model cannot serve them, EngineError where they make no sense,
    BudgetError from the plan.
    """
    if available == 0:
        return ()
    name = type(ready.pruner).__name__
    stages: Any = plan
    if plan is None:
        with contained(name, "plan"):
            stages = ready.pruner.plan(budget, available, layers)
    is_list = isinstance(stages, tuple | list)
    if not is_list or not all(isinstance(stage, Stage) for stage in stages):
        raise EngineError(one_line(f"{name} plans {stages!r}; a plan is a tuple of Stage"))
    if not ready.inside_encoder(plan):
        _check_announced(name, ready, stages)
    for before, stage in zip((None, *stages), stages, strict=False):
        if stage.site.part is Part.VISION:
            _check_block(name, ready, stage.site)
        _check_stage(name, before, stage, available, layers)
    _check_signals(name, ready, stages)
    for stage in stages:
        ready.check_attention(stage.site)
    if budget is not None and plan is None:
        _check_spending(name, budget, stages, available, layers)
    return tuple(stages)


def check_bias(setup: Setup, site: Site) -> None:
    """Raise Unsupported where the attention kernel takes no bias."""
    if "flash" in setup.kernel:
        name = type(setup.ready.pruner).__name__
        raise Unsupported(
            f"{name} gives a bias at {site}, which flash attention does not take; load the "
            "model with attn_implementation='sdpa' or 'eager'"
        )


def _check_stage(
    name: str, before: Stage | None, stage: Stage, available: int, layers: int
) -> None:
    """Raise for a stage that no engine seam serves, or that makes no sense behind another one."""
    if stage.site.part is Part.PIXELS:
        raise Unsupported(f"{name} works on pixels, before the processor; run it through a sweep")
    if stage.site.part is Part.LLM and stage.site.layer >= layers:
        raise Unsupported(
            f"{name} prunes at {stage.site}, but the model has layers 0..{layers - 1}"
        )
    if type(stage.keep) is not int:
        raise EngineError(
            one_line(
                f"{name} plans to keep {stage.keep!r} tokens at {stage.site}; it must be a whole "
                "number"
            )
        )
    if before is not None and not (before.site < stage.site and before.keep >= stage.keep):
        raise EngineError(
            f"{name} plans {before} and then {stage}; stages go forward and never grow"
        )
    first = stage.compact_from
    if first is not None and not (type(first) is int and 0 <= first < layers):
        raise EngineError(
            one_line(
                f"{name} compacts from layer {first!r} on at {stage.site}; it must be one of "
                f"0..{layers - 1}"
            )
        )
    if not 0 <= stage.keep <= available:
        raise EngineError(
            f"{name} plans to keep {stage.keep} of {available} visual tokens at {stage.site}"
        )


def _check_signals(name: str, ready: Ready, stages: Sequence[Stage]) -> None:
    """Raise EngineError for a signal that exists at none of the stages, or not where it is read."""
    sites = [stage.site for stage in stages]
    lost = sorted(ready.reads.misplaced(sites))
    if lost:
        places = " and ".join(map(str, sites))
        raise EngineError(
            f"{name} needs {', '.join(lost)} at {places}, {ready.reads.whereabouts(lost[0])}"
        )


def _check_announced(name: str, ready: Ready, stages: Sequence[Stage]) -> None:
    """Raise EngineError for a stage inside the vision encoder of a method whose site is elsewhere.

    Where the site is decides what is set up before images are encoded.
    """
    for stage in stages:
        if stage.site.part is Part.VISION:
            raise EngineError(
                f"{name} plans a stage at {stage.site}, but its site() says "
                f"{ready.pruner.site()}; it must say where the first stage is"
            )


def _check_block(name: str, ready: Ready, site: Site) -> None:
    """Raise Unsupported for a seam of the vision encoder at which nothing can be pruned."""
    last = ready.feature_block
    if last is None:
        raise Unsupported(f"{name} prunes at {site}; a decoder by itself has no vision encoder")
    if site.layer < 1:
        raise Unsupported(
            f"{name} prunes at {site}, before any block has run; shrink the image instead (pixels)"
        )
    if site.layer > last:
        raise Unsupported(
            f"{name} prunes at {site}, but the projector reads block {last}: no later one matters"
        )


def _check_spending(
    name: str, budget: Budget, stages: Sequence[Stage], available: int, layers: int
) -> None:
    """Raise EngineError for a plan that overspends, by more than rounding explains.

    Where the nearest will do, nobody can say how much that is but the method.
    """
    if budget.nearest:
        return
    cost = spent(budget.kind, alive(stages, available, layers), cached(stages, available, layers))
    # half a token for rounding to whole ones, the rest for floats
    if cost > budget.tokens(available) + 0.5 + 1e-6:
        raise EngineError(
            f"{name} plans to spend {cost:g} of {available} visual tokens, budget {budget} allows "
            f"{budget.tokens(available):g}: its plan() ignores the budget"
        )


def settled(
    pruner: Pruner,
    samples: Sequence[SampleTrace],
    call: Call,
    live: Sequence[Stream],
    lengths: Sequence[int | None],
) -> None:
    """See that every stage ran, all text is there, and every layer's cache is as long as planned.

    `live` and `lengths` are per layer and hold the call's drafts behind the prompt; a layer that
    keeps a state has no length. Fills in the samples' `cached`. Raises EngineError.
    """
    name = type(pruner).__name__
    for row, sample in enumerate(samples):
        for stage in sample.stages:
            if stage.site not in sample.kept:
                raise EngineError(f"{name} at {stage.site} never ran for sample {row}")
        counts: dict[int, tuple[int, int]] = {}  # by stream, for most layers share one
        for number, stream in enumerate(live):
            if id(stream) not in counts:
                visual = call.visual[row][stream.source[row]]
                counts[id(stream)] = int(visual.sum()), len(visual)
            count, alive_count = counts[id(stream)]
            if alive_count - count != sample.text + call.drafts:
                raise EngineError(
                    f"sample {row} lost text before layer {number}: {sample.text} tokens were there"
                )
            sample.cached.append(count)
    for number, (stream, length) in enumerate(zip(live, lengths, strict=True)):
        if length is not None and length != stream.width:
            raise EngineError(
                f"{name}: the cache of layer {number} holds {length} entries, {stream.width} were "
                "planned"
            )
