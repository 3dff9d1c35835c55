"""DyMU: how many merge depends on the picture, and a budget is a ceiling."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from prunebench import Budget, Signal, Stage, VisualTokens, registry, vision
from prunebench.testing import tokens, walk
from prunebench.testing.samples import facts


def picture(spread: float) -> VisualTokens:
    keys = 1 + spread * torch.randn(1, 2, 24, 8, generator=torch.Generator().manual_seed(0))
    sample = tokens(needs=[Signal.ENCODER_KEYS])
    return replace(sample, signals={Signal.ENCODER_KEYS: keys})


def test_plain_pictures_take_fewer_tokens() -> None:
    pruner = registry.build("dymu")
    stage = Stage(vision(before=1), 24)
    counts = [len(walk(pruner, (stage,), picture(spread))[0].keep.index) for spread in (0, 0.6, 9)]
    # at most half of the rows merge in a block
    assert counts[0] == 12
    assert 12 < counts[1] < 24
    assert counts[2] == 24


@pytest.mark.parametrize("count", [1, 5, 23])
def test_a_budget_is_met_where_the_threshold_leaves_more(count: int) -> None:
    pruner = registry.build("dymu", {"thresholds": (1.1,)}).prepared(facts())
    sample = picture(1)
    steps = walk(pruner, pruner.plan(Budget(count), 24, 28), sample)
    assert [len(step.keep.index) for step in steps] == [24] * 6 + [count]
    steps = walk(pruner, pruner.plan(None, 24, 28), sample)
    assert len(steps[-1].keep.index) == 24
