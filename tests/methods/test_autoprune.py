"""AutoPrune: mutual information by hand, and a curve that spends what it may."""

from __future__ import annotations

from math import log2
from typing import Any

import pytest
import torch
from prunebench.methods.autoprune import shared

from prunebench import Budget, alive, registry


def test_text_rows_that_look_alike_share_nothing() -> None:
    alike = torch.tensor([[[0.5, 0.5], [0.5, 0.5]]])
    apart = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    torch.testing.assert_close(shared(alike), torch.zeros(1), atol=1e-4, rtol=0)
    torch.testing.assert_close(shared(apart), torch.tensor([log2(2)]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("slope", [0.0, 0.1, 0.4])
def test_the_curve_spends_the_mean(slope: float) -> None:
    method: Any = registry.build("autoprune")
    counts, shares = method.curve(slope, 160, 64, 32)
    assert counts == sorted(counts, reverse=True)
    assert bool((shares.diff() <= 0).all())
    # merged tokens come on top
    assert 0.9 * 64 * 32 < 160 + sum(counts) <= 64 * 32


def test_a_budget_is_spent_whatever_the_sample() -> None:
    method = registry.build("autoprune")
    for layers in (6, 28, 32):
        stages = method.plan(Budget(0.4), 300, layers)
        assert abs(sum(alive(stages, 300, layers)) / layers - 120) <= 0.5
        assert stages == tuple(sorted(stages, key=lambda stage: -stage.keep))


def test_own_stages_leave_the_counts_open() -> None:
    stages = registry.build("autoprune").plan(None, 576, 32)
    assert len(stages) == 31
    assert {stage.keep for stage in stages} == {160}
