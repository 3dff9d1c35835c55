"""FlashVID: picks and chains by hand, exact counts, and the stage inside."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from prunebench import (
    INPUT,
    Budget,
    Keep,
    Layout,
    Pruner,
    Signal,
    Stage,
    Tile,
    VisualTokens,
    llm,
    registry,
)


def flashvid(**settings: Any) -> Pruner:
    return registry.build("flashvid", {"segments": 1, **settings})


def video(degrees: list[list[float]], received: list[list[float]]) -> VisualTokens:
    """A token is a direction, given in degrees, frame by frame."""
    angle = torch.deg2rad(torch.tensor(degrees).flatten())
    features = torch.stack([angle.cos(), angle.sin()], dim=1)
    tiles = [Tile(1, len(frame), "frame", frame=i) for i, frame in enumerate(degrees)]
    layout = Layout(tuple(tiles))
    signals = {Signal.RECEIVED_ATTENTION: torch.tensor(received).flatten()[None, None]}
    return VisualTokens(features, layout, torch.arange(len(layout)), signals=signals)


def test_picks_are_far_from_each_other_and_attended_to() -> None:
    tokens = video([[0.0, 10, 90, 100, 180]], [[1.0, 1, 1, 3, 1]])
    pruner = flashvid(selected=1.0, events=False)
    # 180 is farthest from its nearest, 100; from it 0 is farther than 100, but less attended to
    keep = pruner.prune(tokens, Stage(INPUT, 2))
    assert pruner.explain(tokens, Stage(INPUT, 2))["keep_selected"].tolist() == [3, 4]
    assert keep.index.tolist() == [3, 4]


def test_chains_over_time_become_one_row_at_their_first_token() -> None:
    scene = [0.0, 90, 180]
    tokens = video([scene, scene, scene], [[9.0, 0, 0], [0, 9, 0], [0, 0, 9]])
    # picked are 0, 90 and 180; of what is left 180 joins frame 0, and 0 of frame 2 joins frame 1
    keep = flashvid(selected=0.1, events=False, threshold=-2.0).prune(tokens, Stage(INPUT, 6))
    keep = keep.ascending()
    assert keep.index.tolist() == [0, 1, 3, 4, 7, 8]
    assert keep.features is not None
    # 90 and 180 of frame 0 are one cluster, for there is room for one row a frame
    assert torch.allclose(keep.features[1], torch.tensor([-0.5, 0.5]), atol=1e-6)
    assert torch.allclose(keep.features[2], torch.tensor([1.0, 0.0]), atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 5, 9, 13, 17])
@pytest.mark.parametrize("events", [True, False])
def test_meets_every_budget(count: int, events: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    angles = 360 * torch.rand(3, 6, generator=generator)
    tokens = video(angles.tolist(), torch.rand(3, 6, generator=generator).tolist())
    keep: Keep = flashvid(events=events).prune(tokens, Stage(INPUT, count))
    assert len(set(keep.index.tolist())) == count


def test_equal_tokens_are_picked_once_each() -> None:
    tokens = video([[0.0] * 6], [[1.0] * 6])
    keep = flashvid(selected=1.0).prune(tokens, Stage(INPUT, 4))
    assert keep.index.tolist() == [0, 1, 2, 3]


def test_the_stage_inside_ranks_by_the_last_row() -> None:
    signals = {Signal.LAST_QUERY_ATTENTION: torch.tensor([[0.4, 0.3, 0.3], [0.0, 0.2, 0.3]])}
    layout = Layout((Tile(1, 3),))
    tokens = VisualTokens(torch.zeros(3, 1), layout, torch.arange(3), llm(1), signals=signals)
    assert flashvid().prune(tokens, Stage(llm(1), 2)).index.tolist() == [2, 1]


def test_plans_both_stages() -> None:
    first, second = flashvid().plan(Budget(0.25), 1000, 28)
    assert str(second.site) == "llm:20"
    assert second.keep == pytest.approx(0.3 * first.keep, abs=2)
