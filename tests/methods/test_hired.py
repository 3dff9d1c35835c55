"""HiRED: parts of the budget by hand, in quadrants and in strips, and the exact count."""

from __future__ import annotations

from typing import Any

import torch

from prunebench import INPUT, Layout, Pruner, Signal, Stage, Tile, VisualTokens, registry

HALVES = (0.0, 0.5), (0.5, 1.0)


def sample(early: list[float], late: list[float]) -> VisualTokens:
    """A thumbnail of 4 x 4 and four crops of 2 x 2."""
    tiles = [Tile(4, 4, "thumbnail")]
    for upper, lower in HALVES:
        for left, right in HALVES:
            tiles.append(Tile(2, 2, "crop", region=(left, upper, right, lower)))
    layout = Layout(tuple(tiles))
    attention = torch.tensor([early, late])[:, None]
    signals = {Signal.CLS_ATTENTION: attention}
    return VisualTokens(torch.zeros(32, 1), layout, torch.arange(32), signals=signals)


def budgets(tokens: VisualTokens, count: int, **settings: Any) -> list[int]:
    pruner: Pruner = registry.build("hired", settings)
    return pruner.explain(tokens, Stage(INPUT, count))["budgets"].tolist()


# the eight marked tokens of the thumbnail: six in its right half, two at the lower left
MARKED = [2, 3, 6, 7, 11, 15, 12, 13]
EARLY = [1.0 if place in MARKED else 0.0 for place in range(32)]


def test_crops_get_what_the_thumbnail_marks_in_them() -> None:
    tokens = sample(EARLY, [0.0] * 32)
    # of 16 the thumbnail gets 8; the quadrants hold 0, 4, 2 and 2 of eight marks
    assert budgets(tokens, 16) == [8, 0, 4, 2, 2]
    # official code counts the rows of the thumbnail: 2, 2, 1 and 3
    assert budgets(tokens, 16, official=True) == [8, 2, 2, 1, 3]
    # what a full crop cannot hold goes to the others
    assert budgets(tokens, 24) == [12, 0, 4, 4, 4]


def test_the_late_block_ranks_inside_a_tile() -> None:
    late = [float(place % 5) for place in range(32)]
    picks = registry.build("hired").prune(sample(EARLY, late), Stage(INPUT, 16)).index.tolist()
    assert picks[:8] == [4, 9, 14, 3, 8, 13, 2, 7]
    assert sorted(picks[8:12]) == [20, 21, 22, 23]


def test_every_count_is_met() -> None:
    generator = torch.Generator().manual_seed(1)
    early, late = torch.rand(2, 32, generator=generator).tolist()
    for count in range(1, 33):
        index = registry.build("hired").prune(sample(early, late), Stage(INPUT, count)).index
        assert len(set(index.tolist())) == count
