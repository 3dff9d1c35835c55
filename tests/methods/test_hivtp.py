"""HIVTP: quarters and windows by hand, as official code has them and under a budget."""

from __future__ import annotations

from typing import Any

import torch

from prunebench import INPUT, Layout, Signal, Stage, Tile, VisualTokens, registry

SCORES = [
    [9, 1, 2, 3],
    [8, 7, 4, 5],
    [1, 2, 6, 5],
    [3, 4, 4, 3],
]


def order(count: int, **settings: Any) -> list[int]:
    layout = Layout((Tile(4, 4),))
    scores = torch.tensor(SCORES, dtype=torch.float32).flatten()
    signals = {Signal.RECEIVED_ATTENTION: scores[None, None]}
    tokens = VisualTokens(torch.zeros(16, 1), layout, torch.arange(16), signals=signals)
    pruner = registry.build("hivtp", settings)
    return pruner.prune(tokens, Stage(INPUT, count)).index.tolist()


def test_one_of_each_quarter_and_of_each_window() -> None:
    # quarters and windows are the same here: the best of each, then the next of each
    assert order(16, official=True) == [0, 7, 13, 10, 4, 11, 6, 12]
    assert order(5, official=True) == [0, 7, 13, 10, 4]


def test_a_budget_is_met_by_halves() -> None:
    assert order(8) == [0, 7, 13, 10, 4, 11, 6, 12]
    for count in range(1, 17):
        assert len(set(order(count))) == count
