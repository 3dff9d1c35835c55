"""Ask: what a method answers for one sample at one stage, charged, contained and checked."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from prunebench.budget import Stage
from prunebench.engine.checks import answered
from prunebench.engine.finite import Finite
from prunebench.engine.ready import Ready
from prunebench.engine.trace import Trace
from prunebench.pruner import contained
from prunebench.tokens import VisualTokens


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


def ask(
    ready: Ready, question: Question, trace: Trace, finite: Finite
) -> tuple[Tensor, Tensor | None]:
    """The survivors [K] among the tokens, ascending, with their merged rows [K, D] if any.

    Raises NotFinite for tokens or signals that are no numbers, EngineError for an answer that
    breaks the contract.
    """
    row, stage, tokens = question.row, question.stage, question.tokens
    finite.look(question.features[None], f"features at {stage.site}", [row])
    for signal, value in tokens.signals.items():
        if isinstance(value, Tensor):
            finite.look(value[None], f"{signal} at {stage.site}", [row])
    try:
        with trace.selecting(question.features.device, [row]), contained(ready.name, "prune"):
            keep = ready.pruner.prune(tokens, stage)
    except Exception:
        finite.settle()  # what the method stumbled over has a better name
        raise
    untouched = replace(tokens, features=question.features, index=question.index)
    return answered(ready.pruner, keep, untouched, stage)
