"""Ask: one question to a method, at one stage and for one sample, and its answer, checked."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from prunebench.contract import Step, breach
from prunebench.engine.finite import Finite
from prunebench.engine.reading import Offer
from prunebench.engine.ready import Ready
from prunebench.engine.stream import EngineError
from prunebench.engine.trace import Trace
from prunebench.pruner import Pruner, contained
from prunebench.tokens import Keep, VisualTokens


def ask(
    ready: Ready,
    trace: Trace,
    finite: Finite,
    offer: Offer,
    features: Tensor,
    tokens: VisualTokens,
) -> Keep:
    """The survivors among the offered tokens, ascending, as `answered` gives them.

    `tokens` is what the method is shown, copies all of it, and `features` what it was copied from.
    The method's own time is charged to it, nothing else. Raises NotFinite for numbers that are
    none, EngineError for an answer that breaks the contract.
    """
    site, row, device = offer.stage.site, offer.row, features.device
    finite.look(features[None], f"features at {site}", [row])
    for signal, value in tokens.signals.items():
        if isinstance(value, Tensor):
            finite.look(value[None], f"{signal} at {site}", [row])
    try:
        with trace.selecting(device, [row]), contained(ready.name, "prune"):
            keep = ready.pruner.prune(tokens, offer.stage)
    except Exception:
        finite.settle()  # what the method stumbled over has a better name
        raise
    # checked against tokens that the method has not had in its hands
    untouched = replace(tokens, features=features, index=offer.live.ordinal)
    return answered(ready.pruner, keep, Step(offer.stage, untouched, keep))


def answered(pruner: Pruner, keep: Keep, step: Step) -> Keep:
    """The answer with its index [K] ascending, on the CPU, and the rest in the same order.

    Raises EngineError for an answer that breaks the contract, with method, stage and numbers.
    """
    if isinstance(keep, Keep) and isinstance(keep.index, Tensor):
        keep = replace(keep, index=keep.index.detach().cpu())
    fault = breach(pruner, replace(step, keep=keep))
    if fault:
        raise EngineError(f"{type(pruner).__name__} at {step.stage.site}: {fault}")
    return keep.ascending()
