"""EVS and DyCoke: what changed since the frame before stays, by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from prunebench import INPUT, Layout, Stage, Tile, VisualTokens, registry


def video(degrees: Any) -> VisualTokens:
    """A token is a direction, given in degrees, frame by frame."""
    angle = torch.deg2rad(torch.tensor(degrees).flatten())
    features = torch.stack([angle.cos(), angle.sin()], dim=1)
    tiles = [Tile(1, len(frame), "frame", frame=i) for i, frame in enumerate(degrees)]
    layout = Layout(tuple(tiles))
    return VisualTokens(features, layout, torch.arange(len(layout)))


def kept(name: str, tokens: VisualTokens, count: int, **settings: Any) -> list[int]:
    pruner = registry.build(name, settings)
    return pruner.prune(tokens, Stage(INPUT, count)).index.tolist()


STILL: list[list[float]] = [[0.0, 10, 20], [0, 90, 25], [1, 90, 80]]


def test_evs_keeps_the_first_frame_and_what_changed() -> None:
    # changes by 0, 80, 5 degrees, then by 1, 0, 55
    assert kept("evs", video(STILL), 6) == [0, 1, 2, 4, 8, 5]


def test_evs_spreads_what_it_cannot_tell_apart() -> None:
    assert kept("evs", video(STILL), 1) == [1]
    assert kept("evs", video([[0.0] * 6]), 3) == [1, 3, 5]


def test_evs_looks_at_every_video_alone() -> None:
    layout = Layout(tuple(Tile(1, 2, "frame", image=i // 2, frame=i % 2) for i in range(4)))
    features = torch.eye(2)[torch.tensor([0, 0, 0, 1, 1, 1, 0, 1])]
    tokens = VisualTokens(features, layout, torch.arange(8))
    assert sorted(kept("evs", tokens, 6)) == [0, 1, 3, 4, 5, 6]


MOVING = [[0.0, 0, 0, 0], [5, 90, 2, 60], [0, 30, 70, 9], [0, 31, 0, 20]]
"""Least like the frame before are 1 and 3; of frame 2, beside frame 0, 2 and 1; then 2 and 3."""


def test_dycoke_thins_three_of_four_frames() -> None:
    # a whole frame, and 2 of each other
    assert kept("dycoke", video(MOVING), 10) == [0, 1, 2, 3, 5, 7, 10, 9, 14, 15]


def test_dycoke_orders_a_frame_by_how_much_changed() -> None:
    assert kept("dycoke", video(MOVING), 7)[4:] == [5, 10, 14]


def test_dycoke_below_a_frame_in_four_thins_whole_frames() -> None:
    moving = [*MOVING, [0.0, 0, 0, 40], [0.0, 0, 0, 0]]
    # frames 0 and 4 have three tokens between them
    assert kept("dycoke", video(moving), 3) == [1, 3, 19]


@pytest.mark.parametrize("count", [1, 5, 12, 18, 19])
def test_dycoke_meets_every_budget(count: int) -> None:
    assert len(set(kept("dycoke", video([*MOVING, [1.0, 2, 3, 4]]), count))) == count


def test_dycoke_loses_the_last_odd_frame_as_the_code_does() -> None:
    tokens = video([*MOVING, [1.0, 2, 3, 4]])
    official = kept("dycoke", tokens, 10, official=True)
    assert max(official) < 16
    # the last group is not thinned at frame 2
    assert {0, 1, 2, 3, 16, 17, 18, 19} <= set(kept("dycoke", tokens, 12))
