"""PruneVid: windows and static tokens by hand, exact counts, the stage inside and its groups."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from prunebench import (
    INPUT,
    Budget,
    BudgetError,
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
from prunebench.testing.modules import run_file

RUNS = run_file(Path(__file__).parents[2] / "methods" / "prunevid.py", "_prunevid_runs").runs


@pytest.mark.parametrize(
    ("labels", "windows"),
    [
        ([0, 0, 1, 1], [(0, 2), (2, 4)]),
        # of label 0 the longer run stays; what is left joins the longer neighbour
        ([0, 0, 1, 1, 1, 0, 0, 0], [(0, 5), (5, 8)]),
        ([0, 0, 2, 1, 1, 1], [(0, 2), (2, 6)]),
        # ties go left, of runs and of neighbours
        ([0, 0, 2, 1, 1, 0, 0], [(0, 3), (3, 7)]),
        ([2, 0, 0, 3], [(0, 4)]),
        ([0, 1, 2], [(0, 3)]),
        ([0], [(0, 1)]),
    ],
)
def test_windows_of_labels(labels: list[int], windows: list[tuple[int, int]]) -> None:
    assert RUNS(labels) == windows


def prunevid(**settings: Any) -> Pruner:
    return registry.build("prunevid", settings)


def video(degrees: list[list[float]]) -> VisualTokens:
    """A token is a direction, given in degrees, frame by frame."""
    angle = torch.deg2rad(torch.tensor(degrees).flatten())
    features = torch.stack([angle.cos(), angle.sin()], dim=1)
    tiles = [Tile(1, len(frame), "frame", frame=i) for i, frame in enumerate(degrees)]
    layout = Layout(tuple(tiles))
    return VisualTokens(features, layout, torch.arange(len(layout)))


STILL: list[list[float]] = [[0.0, 100, 50], [10, 0, 60], [20, 180, 70]]
"""Tokens 0 and 2 stand still, 0 and 2 equally; token 1 jumps."""


def kept(count: int, **settings: Any) -> Keep:
    return prunevid(**settings).prune(video(STILL), Stage(INPUT, count))


def test_static_tokens_become_their_mean_in_the_first_frame() -> None:
    keep = kept(5)
    assert keep.index.tolist() == [0, 2, 1, 4, 7]
    assert keep.features is not None
    still = video(STILL).features[[0, 3, 6]].mean(0)
    assert torch.allclose(keep.features[0], still)


def test_where_too_much_is_static_the_least_stays_apart() -> None:
    # 9 - 2 x 2 are left of two static tokens, 9 - 2 of one
    assert sorted(kept(7).index.tolist()) == [0, 1, 2, 4, 5, 7, 8]
    assert len(kept(8).index) == 8


def test_clusters_become_their_means() -> None:
    """An image is one frame, of which nothing is static."""
    tokens = video([[0.0, 2, 4, 90, 92, 94]])
    keep = prunevid().prune(tokens, Stage(INPUT, 2)).ascending()
    assert keep.features is not None
    means = torch.stack([tokens.features[:3].mean(0), tokens.features[3:].mean(0)])
    assert torch.allclose(keep.features, means)


@pytest.mark.parametrize("count", range(1, 9))
def test_meets_every_budget(count: int) -> None:
    assert len(set(kept(count).index.tolist())) == count


def test_a_ratio_keeps_what_it_comes_to() -> None:
    frames = [[float(9 * i) for i in range(20)], [float(7 * i + 90) for i in range(20)]]
    tokens = video(frames)
    pruner = prunevid(ratio=0.5, threshold=1.1)
    assert pruner.dynamic
    assert len(pruner.prune(tokens, Stage(INPUT, 40)).index) == 20
    assert len(pruner.prune(tokens, Stage(INPUT, 11)).index) == 11
    assert not prunevid().dynamic
    # all that stands still merges, whatever there is room for
    assert len(prunevid(ratio=0.5).prune(video(STILL), Stage(INPUT, 9)).index) == 5


def test_the_stage_inside_keeps_a_share_of_every_group() -> None:
    attention = torch.zeros(2, 3, 12)
    attention[0, 1] = torch.arange(12.0) / 100
    attention[1, 2, 3] = 0.5  # one head and one word are enough
    layout = Layout((Tile(1, 12),))
    signals = {Signal.TEXT_ATTENTION: attention}
    groups = torch.tensor([4] * 6 + [7] * 6)
    tokens = VisualTokens(
        torch.zeros(12, 2),
        layout,
        torch.arange(12),
        llm(1),
        memo={"prunevid": groups},
        signals=signals,
    )
    keep = prunevid().prune(tokens, Stage(llm(1), 4))
    assert keep.index.tolist() == [3, 5, 10, 11]


def test_plans_both_stages_and_compacts_caches() -> None:
    first, second = prunevid().plan(Budget(0.25), 1000, 32)
    assert (str(second.site), second.compact) == ("llm:11", True)
    assert second.keep == pytest.approx(0.4 * first.keep, abs=2)
    with pytest.raises(BudgetError, match="no budget of its own"):
        prunevid().plan(None, 1000, 32)
    first, second = prunevid(ratio=0.5).plan(None, 1000, 32)
    assert (first.keep, second.keep) == (1000, 200)
