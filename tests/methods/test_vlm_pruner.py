"""VLM-Pruner: near tokens before far ones that add as little, and its budget met exactly."""

from __future__ import annotations

from typing import Any

import torch

from prunebench import Layout, Signal, Stage, Tile, VisualTokens, llm, registry


def sample() -> VisualTokens:
    """Five tokens in a row: the pivot, two that resemble it alike, and two that do not."""
    directions = [[1.0, 0, 0], [0.6, 0.8, 0], [0, 1, 0], [0, 0, 1], [0.6, 0, 0.8]]
    keys = torch.zeros(1, 5, 2)
    keys[0, 0] = 9.0
    return VisualTokens(
        torch.tensor(directions),
        Layout((Tile(1, 5),)),
        torch.arange(5),
        signals={Signal.KEYS: keys},
    )


def kept(keep: int, **settings: Any) -> list[int]:
    pruner = registry.build("vlm_pruner", {"pivots": 1, "batch": 1, **settings})
    return pruner.prune(sample(), Stage(llm(2), keep)).index.tolist()


def test_of_equally_similar_tokens_the_near_one_comes_first() -> None:
    # 2 and 3 are at right angles to the pivot: sigma is 0; the next ones cost .6 (1 + d / 2D)
    assert kept(3) == [0, 2, 3]
    # 1 lies beside tokens taken, as 4 does, and both resemble one of them by .8
    assert kept(5, threshold=0.9) == [0, 2, 3, 1, 4]


def test_the_threshold_rises_until_the_budget_is_met() -> None:
    assert len(kept(5, threshold=0.1)) == 5
    assert len(kept(5, threshold=0.1, official=True)) == 3


def test_dropped_tokens_leave_their_part() -> None:
    pruner = registry.build("vlm_pruner", {"pivots": 1, "batch": 1})
    keep = pruner.prune(sample(), Stage(llm(2), 3)).ascending()
    assert keep.features is not None
    # 1 joins 2, whom it resembles by .8, and 4 joins 3
    expected = [[1.0, 0, 0], [0.42, 0.86, 0], [0.42, 0, 0.86]]
    torch.testing.assert_close(keep.features, torch.tensor(expected))
