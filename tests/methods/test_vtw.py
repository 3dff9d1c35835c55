"""VTW: one layer, from the paper or from the budget."""

from __future__ import annotations

import pytest

from prunebench import INPUT, Budget, BudgetError, Stage, llm, registry


def test_own_layer_follows_the_depth() -> None:
    method = registry.build("vtw")
    assert method.plan(None, 576, 32) == (Stage(llm(15), 0),)
    assert method.plan(None, 576, 28) == (Stage(llm(13), 0),)


def test_a_budget_pays_for_whole_layers() -> None:
    method = registry.build("vtw")
    assert method.plan(Budget(0.5), 576, 32) == (Stage(llm(16), 0),)
    # 17 of 32 layers are .53125
    assert method.plan(Budget(0.53), 576, 32) == (Stage(llm(16), 0),)
    assert method.plan(Budget(1.0), 576, 32) == (Stage(INPUT, 576),)
    for budget in (Budget(0.03), Budget(0.5, "input")):
        with pytest.raises(BudgetError, match="all tokens enter the first layer"):
            method.plan(budget, 576, 32)
