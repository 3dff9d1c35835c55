"""VScan: windows and the whole by hand, means, exact budgets and the second stage."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from prunebench import (
    INPUT,
    Budget,
    BudgetError,
    Layout,
    Signal,
    Stage,
    Tile,
    VisualTokens,
    llm,
    registry,
)


def sample(shallow: Any, deep: Any, rows: int, columns: int) -> VisualTokens:
    layout = Layout((Tile(rows, columns),))
    attention = torch.tensor([shallow, deep], dtype=torch.float32)
    number = torch.arange(len(layout))
    angle = torch.deg2rad(10.0 * number)
    features = torch.stack([angle.cos(), angle.sin()], 1)
    signals = {Signal.CLS_ATTENTION: attention[:, None]}
    return VisualTokens(features, layout, number, signals=signals)


SHALLOW = [9, 1, 2, 8, 3, 4, 5, 6]
DEEP = [1, 9, 8, 1, 7, 1, 1, 1]


def order(count: int, **settings: Any) -> list[int]:
    pruner = registry.build("vscan", {"window": 2, **settings})
    return pruner.prune(sample(SHALLOW, DEEP, 2, 4), Stage(INPUT, count)).index.tolist()


def test_a_window_each_then_the_whole() -> None:
    # windows {0, 1, 4, 5} and {2, 3, 6, 7}: 0 and 3 lead them; of the whole 1 and 2 are left
    assert order(4) == [0, 3, 1, 2]


def test_what_windows_leave_over_is_made_up_for() -> None:
    # half of 7 is 3, which two windows cannot share
    assert len(order(7)) == 7
    assert order(7, official=True) == [0, 3, 1, 2, 4, 5]
    for count in range(1, 9):
        assert len(set(order(count))) == count


def test_survivors_are_means_of_what_joined_them() -> None:
    tokens = sample([9, 0, 0, 8], [0, 0, 0, 0], 1, 4)
    keep = registry.build("vscan", {"window": 2}).prune(tokens, Stage(INPUT, 2))
    # a token next to each: 1 at 10 degrees joins 0, and 2 joins 1
    assert keep.index.tolist() == [0, 1]
    assert keep.features is not None
    assert torch.allclose(keep.features[0], tokens.features[0])
    assert torch.allclose(keep.features[1], tokens.features[1:].mean(0))


def test_two_stages_share_the_budget() -> None:
    pruner = registry.build("vscan")
    assert pruner.plan(None, 576, 32) == (Stage(INPUT, 96), Stage(llm(16), 32))
    stages = pruner.plan(Budget(64), 576, 32)
    assert stages == (Stage(INPUT, 96), Stage(llm(16), 32))
    assert pruner.plan(Budget(1.0), 24, 6) == (Stage(INPUT, 24), Stage(llm(3), 24))
    assert registry.build("vscan", {"layer": 0}).plan(Budget(64), 576, 32) == (Stage(INPUT, 64),)
    with pytest.raises(BudgetError, match=r"vscan.layer 40 is layer 40 of 32"):
        registry.build("vscan", {"layer": 40}).plan(Budget(64), 576, 32)
