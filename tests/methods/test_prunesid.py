"""PruneSID: groups, suppression and shares by hand, and the exact budget."""

from __future__ import annotations

import importlib

import pytest
import torch

from prunebench import INPUT, Layout, Signal, Stage, Tile, VisualTokens, registry

prunesid = importlib.import_module("prunebench.methods.prunesid")


def test_tokens_of_one_direction_are_one_group() -> None:
    ramp, hump = torch.tensor([-2.0, -1, 0, 1, 2]), torch.tensor([1.0, -1, -3, -1, 1])
    features = torch.stack([ramp, hump, -ramp, 0.5 * hump, 2 * ramp])
    component = prunesid.components(features, 2)
    assert component[[0, 2, 4]].unique().numel() == 1
    assert component[[1, 3]].unique().numel() == 1
    assert component[0] != component[1]


def test_what_is_suppressed_suppresses_nothing() -> None:
    angle = torch.deg2rad(torch.tensor([0.0, 30, 60, 200]))
    features = torch.stack([angle.cos(), angle.sin()], 1)
    attention = torch.tensor([4.0, 3, 2, 1])
    alike = torch.zeros(4, dtype=torch.int64)
    unit_mean = 1 / float((features @ features.T).fill_diagonal_(0).sum() / 12)
    # above a cosine of 0.8: 0 suppresses 1, which would have suppressed 2
    left = prunesid.unsuppressed(features, attention, alike, 0.8 * unit_mean)
    assert left.tolist() == [True, False, True, True]
    apart = torch.tensor([0, 1, 1, 0])
    left = prunesid.unsuppressed(features, attention, apart, 0.8 * unit_mean)
    assert left.tolist() == [True, True, False, True]


def test_groups_share_by_what_is_not_suppressed() -> None:
    # one for each, and of the five left 5 * 1/8, 5 * 3/8, 5 * 4/8, by their rounded sums
    shares = prunesid.budgets(torch.tensor([9, 9, 9]), torch.tensor([1, 3, 4]), 9)
    assert shares.tolist() == [2, 2, 4]
    # an empty group gets nothing, and one of two members no more
    shares = prunesid.budgets(torch.tensor([0, 2, 9]), torch.tensor([0, 2, 1]), 9)
    assert shares.tolist() == [0, 2, 6]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 20, 39, 40])
def test_every_count_is_met(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    layout = Layout((Tile(5, 8),))
    signals = {
        Signal.CLS_ATTENTION: torch.rand(1, 2, 40, generator=generator),
        Signal.ENCODER_FEATURES: torch.randn(1, 40, 6, generator=generator),
    }
    tokens = VisualTokens(torch.zeros(40, 1), layout, torch.arange(40), signals=signals)
    index = registry.build("prunesid").prune(tokens, Stage(INPUT, count)).index
    assert len(set(index.tolist())) == count
