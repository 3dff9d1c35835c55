"""LLaVA-Scissor: components by hand, what they become, and a threshold that meets the budget."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from prunebench import INPUT, Keep, Layout, Stage, Tile, VisualTokens, registry


def video(degrees: list[list[float]]) -> VisualTokens:
    """A token is a direction, given in degrees, frame by frame."""
    angle = torch.deg2rad(torch.tensor(degrees).flatten())
    features = torch.stack([angle.cos(), angle.sin()], dim=1)
    tiles = [Tile(1, len(frame), "frame", frame=i) for i, frame in enumerate(degrees)]
    layout = Layout(tuple(tiles))
    return VisualTokens(features, layout, torch.arange(len(layout)))


CHAINS = video([[0.0, 20, 40, 180, 190], [90.0, 95, 20, 250, 255]])
"""Neighbours up to 25 degrees: 0-20-40 is a chain; 20 joins it in the second frame."""


def kept(count: int, **settings: Any) -> Keep:
    return registry.build("llava_scissor", settings).prune(CHAINS, Stage(INPUT, count))


def test_components_are_merged_in_frames_and_over_the_video() -> None:
    keep = kept(10, threshold=0.906)  # cos 25 degrees
    # in frames 1 (two neighbours), 3; 5, 7, 8; then 1 and 7 are one
    assert keep.index.tolist() == [1, 3, 5, 8]
    assert keep.features is not None
    mean = (CHAINS.features[:3].mean(0) + CHAINS.features[7]) / 2
    members = CHAINS.features[[0, 1, 2, 7]]
    assert torch.allclose(keep.features[0], (mean + members.sum(0)) / 5)


def test_the_threshold_that_meets_the_budget_gives_the_same() -> None:
    """Where a component stands may differ, for that is a matter of how many neighbours it has."""
    fixed, solved = kept(10, threshold=0.906), kept(4)
    assert fixed.features is not None
    assert solved.features is not None
    assert torch.allclose(fixed.features, solved.features)


@pytest.mark.parametrize("count", range(1, 10))
def test_meets_every_budget(count: int) -> None:
    assert len(set(kept(count).index.tolist())) == count


def test_tokens_least_like_a_component_fill_what_is_left() -> None:
    """Equal tokens are one component at any threshold."""
    tokens = video([[0.0, 0, 0, 90]])
    keep = registry.build("llava_scissor").prune(tokens, Stage(INPUT, 3))
    assert keep.index.tolist() == [0, 3, 1]


def test_a_fixed_threshold_keeps_no_more_than_the_budget() -> None:
    assert len(kept(3, threshold=0.906).index) <= 3


def test_long_chains_are_one_component() -> None:
    tokens = video([[float(i) for i in range(60)]])
    keep = registry.build("llava_scissor", {"threshold": 0.9998}).prune(tokens, Stage(INPUT, 60))
    assert len(keep.index) == 1
