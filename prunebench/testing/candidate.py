"""Candidate: a method under test, with the samples and plans that the checks take it through."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from prunebench.budget import Budget, BudgetError, Stage
from prunebench.contract import walk
from prunebench.pruner import Pruner
from prunebench.signals import CLIP_TEXTS
from prunebench.testing.samples import QUESTION, cast, facts, tokens
from prunebench.tokens import Keep, VisualTokens

BUDGETS = (Budget(1.0), Budget(0.5), Budget(0.25), Budget(5), Budget(0.5, "kv"))
"""What the checks ask a method to plan for."""

DEPTHS = (6, 28, 32)
"""Layers of the models that they plan for."""

DEPTH = 28
"""Layers of the model where one is enough; what `facts()` says."""

GRIDS: tuple[dict[str, Any], ...] = (
    {"rows": 4, "columns": 6},
    {"rows": 1, "columns": 7},
    {"rows": 5, "columns": 9, "tiles": 3},
    {"rows": 3, "columns": 4, "tiles": 2, "newlines": True},
)
"""Samples that a method must be able to prune: a single row, several tiles, newline tokens."""

Plan = tuple[Budget, int, tuple[Stage, ...]]
"""A budget, the layers of a model, and the stages that meet the one in the other."""


class Fault(Exception):
    """What a check objects to; its text is the message."""


def expect(holds: bool, message: str) -> None:
    """Raise Fault with the message unless it holds."""
    if not holds:
        raise Fault(message)


@dataclass(frozen=True)
class Candidate:
    """A method as its author's file makes it (`bare`), made ready for a model (`ready`), and a copy
    of the latter that no check runs (`untouched`).
    """

    bare: Pruner
    ready: Pruner
    untouched: Pruner

    @classmethod
    def of(cls, bare: Pruner) -> Candidate:
        """The method prepared for the model of `facts()`."""
        ready = bare.prepared(facts())
        return cls(bare, ready, copy.deepcopy(ready))


def samples(pruner: Pruner, dtype: torch.dtype = torch.float32) -> Iterator[VisualTokens]:
    """Random samples of several layouts, with the signals that the pruner asks for."""
    for seed, grid in enumerate(GRIDS):
        yield cast(sample(pruner, seed=seed, **grid), dtype)


def sample(pruner: Pruner, **options: Any) -> VisualTokens:
    """Random tokens with the signals that the pruner asks for, of as many encoder blocks and texts
    as it names.
    """
    reads = pruner.reads
    named = {**reads.blocks, **reads.layers}
    blocks = {signal: len(numbers) for signal, numbers in named.items() if numbers}
    blocks |= dict.fromkeys(CLIP_TEXTS, len(reads.texts(QUESTION)))
    return tokens(needs=pruner.needs, blocks=blocks, **options)


def plans(pruner: Pruner, available: int, depths: Sequence[int] = (DEPTH,)) -> Iterator[Plan]:
    """Every plan within reach, over budgets and depths."""
    for layers in depths:
        for budget in BUDGETS:
            try:
                stages = pruner.plan(budget, available, layers)
            except BudgetError:
                continue
            yield budget, layers, stages


def answers(pruner: Pruner, tokens: VisualTokens) -> list[Keep]:
    """What the pruner keeps at every stage of the tightest plan within reach."""
    # of 1.0 every answer is the same, whatever a method does
    tighter: list[tuple[Stage, ...]] = []
    for budget, _, stages in plans(pruner, len(tokens)):
        if budget.amount != 1.0:
            tighter.append(stages)
    expect(bool(tighter), f"no budget of {len(tokens)} tokens is within reach")
    tightest = min(tighter, key=lambda stages: stages[-1].keep)
    return [step.keep for step in walk(pruner, tightest, tokens)]
