"""HiPrune: anchors and their neighbours by hand, in the grid and along the raster."""

from __future__ import annotations

from typing import Any

import torch

from prunebench import INPUT, Layout, Signal, Stage, Tile, VisualTokens, registry

MIDDLE = [0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0]
DEEP = [5, 1, 1, 1, 1, 1, 1, 1, 2, 4, 1, 3]


def order(count: int, **settings: Any) -> list[int]:
    layout = Layout((Tile(3, 4),))
    attention = torch.tensor([MIDDLE, DEEP], dtype=torch.float32)[:, None]
    signals = {Signal.RECEIVED_ATTENTION: attention}
    tokens = VisualTokens(torch.zeros(12, 1), layout, torch.arange(12), signals=signals)
    pruner = registry.build("hiprune", settings)
    return pruner.prune(tokens, Stage(INPUT, count)).index.tolist()


def test_an_anchor_brings_its_neighbours() -> None:
    # one anchor: 3, at the end of the first row, with 2 and 7; then deep attention
    assert order(5, alpha=1.0) == [3, 2, 7, 0, 9]
    # counted along the raster 4 is a neighbour, and 3 - 4 is cut off to 0
    assert order(5, alpha=1.0, official=True) == [3, 0, 2, 4, 7]


def test_without_anchors_deep_attention_decides() -> None:
    assert order(3, alpha=0) == [0, 9, 11]


def test_every_count_is_met() -> None:
    for alpha in (0.0, 0.1, 0.5, 1.0):
        for count in range(1, 13):
            assert len(set(order(count, alpha=alpha))) == count
            assert len(set(order(count, alpha=alpha, official=True))) == count
