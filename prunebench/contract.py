"""Contract: what a pruner must answer, and a sample's way through its stages outside a model.

The rules are those that the engine follows inside one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from prunebench.budget import Budget, Stage
from prunebench.course import Course, misplanned
from prunebench.pruner import Pruner
from prunebench.signals import TOKEN_AXES, Signal
from prunebench.sites import Part
from prunebench.tokens import Keep, VisualTokens

Observe = Callable[[int, Tensor, Tensor], tuple[Tensor, Mapping[Signal, Any]]]
"""(stage number, index [n] alive, their features [n, D]) -> the features and signals that the
pruner is shown.
"""

NOTHING = Keep(torch.empty(0, dtype=torch.int64))
"""The answer where there is nothing to choose."""


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
        return self.keep.ascending().features


def walk(
    pruner: Pruner,
    stages: Sequence[Stage],
    sample: VisualTokens,
    observe: Observe | None = None,
    terms: tuple[Budget | None, int] | None = None,
) -> list[Step]:
    """One step a stage, each on the survivors of the one before.

    A pruner is not asked where a stage keeps nothing or nothing is left. Without `observe` a stage
    is shown the rows of `sample` that are alive, and of its signals those that the pruner reads at
    that stage. With `terms`, the budget and the number of LLM layers, a pruner that plans anew on
    the way does so. Raises Breach for an answer that breaks the contract.
    """
    steps: list[Step] = []
    stages, name = list(stages), type(pruner).__name__
    index, features, memo = sample.index, sample.features, dict(sample.memo)
    for number in range(len(stages)):
        stage = stages[number]
        if observe is None:
            signals: Mapping[Signal, Any] = signals_left(pruner, stage, sample, index)
        else:
            features, signals = observe(number, index, features)
        # TILES names a kind of model and has no value, so that it is never missing
        absent = pruner.reads.signals - frozenset(signals) - {Signal.TILES}
        tokens = replace(
            sample,
            features=features,
            index=index,
            site=stage.site,
            memo=memo,
            signals=signals,
            absent=absent,
        )
        has_choice = stage.keep > 0 and len(tokens) > 0
        if has_choice and terms is not None and pruner.replans:
            past = [replace(step.stage, keep=len(step.keep.index)) for step in steps]
            course = Course(terms[0], len(sample), terms[1], tuple(past), tuple(stages[number:]))
            ahead = pruner.replan(tokens, course)
            fault = misplanned(course, ahead, pruner.dynamic)
            if fault:
                raise Breach(f"{name} at {stage.site}: {fault}")
            stages[number:] = ahead
            stage = stages[number]
            has_choice = stage.keep > 0
        step = Step(stage, tokens, pruner.prune(tokens, stage) if has_choice else NOTHING)
        fault = breach(pruner, step)
        if fault:
            raise Breach(f"{name} at {stage.site}: {fault}")
        settled = step.keep.settled()
        place = settled.index.cpu()
        index = index[place]
        merged = settled.features
        features = features[place.to(features.device)] if merged is None else merged
        steps.append(step)
    return steps


def signals_left(
    pruner: Pruner, stage: Stage, sample: VisualTokens, index: Tensor
) -> dict[Signal, Any]:
    """Of a sample's signals those that a stage is shown, for the tokens `index` [n] alone."""
    reads = pruner.reads
    here = reads.signals_at(stage.site)
    signals = {signal: value for signal, value in sample.signals.items() if signal in here}
    if Signal.TRANSITIONS in signals:
        layers = reads.layers_at(Signal.TRANSITIONS, stage.site)
        signals[Signal.TRANSITIONS] = signals[Signal.TRANSITIONS][: len(layers)]
    # a sample's ascend, so that the search finds exact places
    return narrow(signals, torch.searchsorted(sample.index, index))


def breach(pruner: Pruner, step: Step) -> str:
    """In what an answer breaks the contract of `Pruner.prune`; empty where it does not."""
    return next(breaches(pruner, step), "")


def breaches(pruner: Pruner, step: Step) -> Iterator[str]:
    """Everything that is wrong with an answer; what comes later makes sense only without it."""
    keep, tokens = step.keep, step.tokens
    if not isinstance(keep, Keep):
        yield (
            f"prune returned a {type(keep).__name__}; it must return Keep(index) or "
            "Keep(index, features)"
        )
        return
    yield from _wrong_kinds(keep)
    index, there = keep.index, len(tokens)
    if index.dtype != torch.int64 or index.dim() != 1:
        yield f"index is {index.dtype} of shape {list(index.shape)}; it must be int64 [K]"
    count, due = len(index), min(step.stage.keep, there)
    if count > due or (count < due and not pruner.dynamic):
        rule = "allows at most" if pruner.dynamic else "asks for"
        yield f"keeps {count} of {there} tokens; the stage {rule} {due}"
    if count and (int(index.min()) < 0 or int(index.max()) >= there):
        span = f"{int(index.min())}..{int(index.max())}"
        yield f"index spans {span}; it must lie in 0..{there - 1}"
    repeated = int((index.sort().values.diff() == 0).sum())
    if repeated:
        yield f"index names tokens more than once: {repeated} of {count} are repeats"
    if keep.features is not None:
        yield from _wrong_features(keep.features, count, tokens.features)
    if keep.bias is not None:
        yield from _wrong_bias(keep.bias, count)
    if keep.places is not None:
        yield from _wrong_places(keep.places, count, tokens.index)
    if keep.order not in ("raster", "given"):
        yield f"order is {keep.order!r}; it is 'raster' or 'given'"
    if keep.pair_bias is not None and not callable(keep.pair_bias):
        yield f"pair_bias is a {type(keep.pair_bias).__name__}; it must be a function of distances"
    if tokens.site.part is Part.VISION:
        yield from _wrong_inside(keep)


def _wrong_kinds(keep: Keep) -> Iterator[str]:
    """What of an answer is no tensor."""
    for part in ("index", "features", "bias", "places"):
        value = getattr(keep, part)
        optional = part != "index" and value is None
        if not optional and not isinstance(value, Tensor):
            yield f"{part} is a {type(value).__name__}; it must be a tensor"


def _wrong_features(merged: Tensor, count: int, features: Tensor) -> Iterator[str]:
    """What is wrong with the merged rows of `count` survivors among tokens of `features` [N, D]."""
    shape = [count, features.shape[1]]
    if list(merged.shape) != shape:
        yield f"features are {list(merged.shape)}; they must be [K, D] = {shape}"
    if merged.dtype != features.dtype:
        yield f"features are {merged.dtype}; the tokens' are {features.dtype}"
    if not bool(torch.isfinite(merged).all()):
        yield "features are not finite"


def _wrong_bias(bias: Tensor, count: int) -> Iterator[str]:
    """What is wrong with the bias of `count` survivors."""
    shape = list(bias.shape)
    # one row a layer, and one at least
    by_layer = len(shape) == 2 and shape[0] > 0 and shape[1] == count
    if shape != [count] and not by_layer:
        yield f"bias is {shape}; it must be [K] = {[count]} or [J, K] with a row a layer"
    if not bias.is_floating_point():
        yield f"bias is {bias.dtype}; it must be a floating type"
    if not bool(torch.isfinite(bias).all()):
        yield "bias is not finite"


def _wrong_places(places: Tensor, count: int, index: Tensor) -> Iterator[str]:
    """What is wrong with the places of `count` survivors among tokens `index` [N]."""
    if places.dtype != torch.int64 or list(places.shape) != [count]:
        yield f"places are {places.dtype} {list(places.shape)}; they must be int64 [K] = {[count]}"
    strange = places[~torch.isin(places.cpu(), index.cpu())]
    if len(strange):
        yield f"places name token {int(strange[0])}, which the stage was not shown"


def _wrong_inside(keep: Keep) -> Iterator[str]:
    """What of an answer has no meaning inside the vision encoder."""
    if keep.order == "given":
        yield "order is 'given'; inside the vision encoder rows stay where their patches are"
    for part in ("places", "pair_bias"):
        if getattr(keep, part) is not None:
            yield f"{part} is given; inside the vision encoder there is none"
    if keep.bias is not None and keep.bias.dim() > 1:
        yield "bias has a row a layer; inside the vision encoder it is [K]"


def narrow(signals: Mapping[Signal, Any], place: Tensor) -> dict[Signal, Any]:
    """The same signals for the tokens at `place` [n] alone."""
    narrowed: dict[Signal, Any] = {}
    for signal, value in signals.items():
        for axis in TOKEN_AXES.get(signal, ()):
            value = value.index_select(axis, place.to(value.device))
        narrowed[signal] = value
    return narrowed
