"""EarlyTom: edges and runs by hand, segments, and exact counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from prunebench import INPUT, Layout, Signal, Stage, Tile, VisualTokens, registry

ATTENTION = [
    [6.0, 5, 4, 3, 2, 1],
    [6.0, 5, 4, 3, 2, 1],
    [1.0, 2, 3, 4, 5, 6],
]


def kept(degrees: list[float], attention: list[list[float]], count: int, **settings: Any) -> Any:
    """Frames of equal tokens, each a direction given in degrees."""
    angle = torch.deg2rad(torch.tensor(degrees)).repeat_interleave(6)
    tiles = [Tile(2, 3, "frame", frame=frame) for frame in range(len(degrees))]
    layout = Layout(tuple(tiles))
    signals = {Signal.RECEIVED_ATTENTION: torch.tensor(attention).flatten()[None, None]}
    features = torch.stack([angle.cos(), angle.sin()], dim=1)
    tokens = VisualTokens(features, layout, torch.arange(len(layout)), signals=signals)
    return registry.build("earlytom", settings).prune(tokens, Stage(INPUT, count)).index.tolist()


def test_the_middle_of_a_segment_keeps_one_of_every_run() -> None:
    # frame 1 lies between: the most attended of 0..2 and of 3..5
    assert kept([0, 0, 0], ATTENTION, 6) == [0, 1, 6, 9, 16, 17]


def test_a_cut_makes_edges() -> None:
    # 90 degrees apart, frames 1 and 2 are a segment of their own
    assert kept([0, 90, 90], ATTENTION, 6) == [0, 1, 6, 7, 16, 17]


def test_segments_are_no_longer_than_their_limit() -> None:
    assert kept([0, 0, 0], ATTENTION, 6, longest=2) == [0, 1, 6, 7, 16, 17]


def test_what_rounding_leaves_goes_to_the_most_attended() -> None:
    assert sorted(kept([0, 0, 0], ATTENTION, 7)) == [0, 1, 6, 7, 9, 16, 17]


@pytest.mark.parametrize("count", range(1, 18))
def test_meets_every_budget(count: int) -> None:
    assert len(set(kept([0, 0, 0], ATTENTION, count))) == count
    assert len(set(kept([0, 0, 0], ATTENTION, count, ratio=0.5))) == count
