"""Ask: what a method answers for one sample at one stage, charged, contained and checked."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from prunebench.border.text import one_line
from prunebench.budget import Stage
from prunebench.contract import Step, breach
from prunebench.course import Course, misplanned
from prunebench.engine.finite import Finite
from prunebench.engine.ready import Ready
from prunebench.engine.stream import EngineError
from prunebench.engine.trace import Trace
from prunebench.pruner import Pruner, contained
from prunebench.tokens import Keep, VisualTokens


@dataclass(frozen=True)
class Question:
    """One sample, by its `row`, at one stage.

    `tokens` is what the method is shown, which are copies; `features` [N, D] and `index` [N] are
    those that it has not had in its hands.
    """

    row: int
    stage: Stage
    tokens: VisualTokens
    features: Tensor
    index: Tensor


def ask(ready: Ready, question: Question, trace: Trace, finite: Finite) -> Keep:
    """The survivors among the tokens, as `answered` gives them.

    Raises NotFinite for tokens or signals that are no numbers, EngineError for an answer that
    breaks the contract.
    """
    row, stage, tokens = question.row, question.stage, question.tokens
    finite.look(question.features[None], f"features at {stage.site}", [row])
    for signal, value in tokens.signals.items():
        if isinstance(value, Tensor):
            finite.look(value[None], f"{signal} at {stage.site}", [row])
    work = pruning_work(tokens, stage) if ready.by_shape else None
    try:
        with trace.selecting(question.features.device, [row], work), contained(ready.name, "prune"):
            keep = ready.pruner.prune(tokens, stage)
    except Exception:
        finite.settle()  # what the method stumbled over has a better name
        raise
    untouched = replace(tokens, features=question.features, index=question.index)
    return answered(ready.pruner, Step(stage, untouched, keep))


def replanned(ready: Ready, question: Question, course: Course, trace: Trace) -> tuple[Stage, ...]:
    """The stages of a course that are ahead, as the method plans them now that it sees the tokens.

    Raises EngineError for stages that are none, or that the budget does not allow.
    """
    tokens, stage = question.tokens, question.stage
    work = ("replan", pruning_work(tokens, stage)) if ready.by_shape else None
    device = question.features.device
    with trace.selecting(device, [question.row], work), contained(ready.name, "replan"):
        ahead = ready.pruner.replan(tokens, course)
    fault = misplanned(course, ahead, ready.pruner.dynamic)
    if fault:
        raise EngineError(one_line(f"{ready.name} at {stage.site}: {fault}"))
    return tuple(ahead)


def pruning_work(tokens: VisualTokens, stage: Stage) -> Hashable:
    """What decides the FLOPs of a method whose work depends on shapes."""
    signals = [(signal, _shapes(value)) for signal, value in sorted(tokens.signals.items())]
    return "prune", stage, _shapes(tokens.features), tokens.tiles, tuple(signals)


def _shapes(value: Any) -> Hashable:
    """The shapes and types of the tensors in a signal; texts as they are."""
    if isinstance(value, Tensor):
        return value.dtype, tuple(value.shape)
    if isinstance(value, tuple):
        return tuple(_shapes(part) for part in value)
    return str(value)


def answered(pruner: Pruner, step: Step) -> Keep:
    """A step's answer with its index [K] as rows go on, on the CPU, and the rest in the same order.

    Raises EngineError for an answer that breaks the contract, with method, stage and numbers.
    """
    keep = step.keep
    if isinstance(keep, Keep) and isinstance(keep.index, Tensor):
        keep = replace(keep, index=keep.index.detach().cpu())
    if isinstance(keep, Keep) and isinstance(keep.places, Tensor):
        keep = replace(keep, places=keep.places.detach().cpu())
    fault = breach(pruner, replace(step, keep=keep))
    if fault:
        raise EngineError(f"{type(pruner).__name__} at {step.stage.site}: {fault}")
    return keep.settled()
