"""FlowCut: how many leave for how attention lies, and the exact number in the end."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from prunebench import INPUT, Budget, Stage, registry, vision
from prunebench.testing import tokens, walk
from prunebench.testing.samples import facts


def test_more_leave_the_more_attention_gathers() -> None:
    pruner: Any = registry.build("flowcut").prepared(facts())
    even, single = torch.ones(16), torch.zeros(16)
    single[3] = 1
    # eight blocks: behind the second six are to come, and behind the first seven
    site = vision(before=2)
    assert pruner.leaving(even, 4, site) == 0
    assert pruner.leaving(single, 4, site) == round(12 / 6**0.5)
    assert pruner.leaving(single, 4, vision(before=1)) == 0
    assert pruner.leaving(even, 4, INPUT) == 12
    assert pruner.leaving(even, 16, INPUT) == 0


@pytest.mark.parametrize("newlines", [False, True])
@pytest.mark.parametrize("count", [1, 5, 23])
def test_what_the_language_model_sees_is_the_budget(count: int, newlines: bool) -> None:
    pruner: Any = registry.build("flowcut").prepared(facts())
    sample = tokens(tiles=2, newlines=newlines, needs=pruner.needs)
    stages = pruner.plan(Budget(count), len(sample), 28)
    steps = walk(pruner, stages, sample)
    assert [str(step.stage.site) for step in steps][-2:] == ["vision:7", "input"]
    assert len(steps[-1].keep.index) == count


def test_scores_run_halfway() -> None:
    pruner: Any = registry.build("flowcut").prepared(facts())
    sample = tokens(needs=pruner.needs)
    flow, _ = pruner.flow(sample)
    steps = walk(pruner, (*pruner.looks(24, 24)[:2], Stage(INPUT, 24)), sample)
    index, scores = steps[-1].tokens.memo["flowcut at 2"]
    # the same block three times: halfway between a number and itself
    assert torch.allclose(scores[index.argsort()], flow)
