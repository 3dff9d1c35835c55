"""Walk: take a sample through a pruner's stages outside a model, by the rules that the engine
follows inside one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from prunebench.budget import Stage
from prunebench.pruner import Pruner
from prunebench.signals import TOKEN_AXIS, Signal
from prunebench.tokens import Keep, VisualTokens

Observe = Callable[[int, Tensor, Tensor], tuple[Tensor, Mapping[Signal, Tensor]]]
"""(stage number, index [n] alive, their features [n, D]) -> the features and signals that the
pruner is shown.
"""


class Breach(ValueError):
    """An answer that breaks the contract of `Pruner.prune`."""


@dataclass(frozen=True)
class Step:
    """What a pruner was shown and answered at one stage."""

    stage: Stage
    tokens: VisualTokens
    keep: Keep

    @property
    def order(self) -> Tensor:
        """[K] original visual indices in the order of selection."""
        return self.tokens.index[self.keep.index.cpu()]

    @property
    def merged(self) -> Tensor | None:
        """[K, D] merged features in reading order, None where nothing merges."""
        if self.keep.features is None:
            return None
        return self.keep.features[self.keep.index.argsort().to(self.keep.features.device)]


def walk(
    pruner: Pruner, stages: Sequence[Stage], sample: VisualTokens, observe: Observe | None = None
) -> list[Step]:
    """One step a stage, each on the survivors of the one before; raises Breach for an answer that
    breaks the contract.

    Without `observe` a stage is shown the rows of `sample` that are alive.
    """

    def rows(_: int, index: Tensor, features: Tensor) -> tuple[Tensor, Mapping[Signal, Tensor]]:
        place = torch.searchsorted(sample.index, index)
        return features, narrow(sample.signals, place)

    look, steps = observe or rows, list[Step]()
    index, features, memo = sample.index, sample.features, dict(sample.memo)
    for number, stage in enumerate(stages):
        features, signals = look(number, index, features)
        tokens = replace(
            sample, features=features, index=index, site=stage.site, memo=memo, signals=signals
        )
        step = Step(stage, tokens, pruner.prune(tokens, stage))
        fault = breach(pruner, step)
        if fault:
            raise Breach(f"{type(pruner).__name__} at {stage.site}: {fault}")
        place = step.keep.index.cpu().sort().values
        merged = step.merged
        index = index[place]
        features = features[place.to(features.device)] if merged is None else merged
        steps.append(step)
    return steps


def breach(pruner: Pruner, step: Step) -> str:
    """In what an answer breaks the contract of `Pruner.prune`; empty where it does not."""
    if not isinstance(step.keep, Keep):
        return f"prune returned a {type(step.keep).__name__}; it must return Keep(index) or Keep(index, features)"
    index, merged, there = step.keep.index, step.keep.features, len(step.tokens)
    due = min(step.stage.keep, there)
    for part in ("index", "features"):
        value = getattr(step.keep, part)
        if not isinstance(value, Tensor) and (part == "index" or value is not None):
            return f"{part} is a {type(value).__name__}; it must be a tensor"
    if index.dtype != torch.int64 or index.dim() != 1:
        return f"index is {index.dtype} of shape {list(index.shape)}; it must be int64 [K]"
    count = len(index)
    if count > due or count < (1 if pruner.dynamic else due):
        return f"keeps {count} of {there} tokens; the stage {'allows at most' if pruner.dynamic else 'asks for'} {due}"
    if int(index.min()) < 0 or int(index.max()) >= there:
        return f"index spans {int(index.min())}..{int(index.max())}; it must lie in 0..{there - 1}"
    repeated = int((index.sort().values.diff() == 0).sum())
    if repeated:
        return f"index names tokens more than once: {repeated} of {count} are repeats"
    if merged is not None and merged.shape != (count, step.tokens.features.shape[1]):
        return f"features are {list(merged.shape)}; they must be [K, D] = {[count, step.tokens.features.shape[1]]}"
    if merged is not None and merged.dtype != step.tokens.features.dtype:
        return f"features are {merged.dtype}; the tokens' are {step.tokens.features.dtype}"
    if merged is not None and not bool(torch.isfinite(merged).all()):
        return "features are not finite"
    return ""


def narrow(signals: Mapping[Signal, Tensor], place: Tensor) -> dict[Signal, Tensor]:
    """The same signals for the tokens at `place` [n] alone."""

    return {
        signal: value.index_select(TOKEN_AXIS[signal], place.to(value.device))
        if signal in TOKEN_AXIS
        else value
        for signal, value in signals.items()
    }
