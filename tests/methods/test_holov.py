"""HoloV: stretches and their shares by hand, and what a stretch cannot hold."""

from __future__ import annotations

from typing import Any

import torch

from prunebench import INPUT, Layout, Signal, Stage, Tile, VisualTokens, registry


def order(attention: list[float], count: int, **settings: Any) -> list[int]:
    layout = Layout((Tile(1, len(attention)),))
    signals = {Signal.CLS_ATTENTION: torch.tensor(attention)[None, None]}
    tokens = VisualTokens(
        torch.zeros(len(layout), 1), layout, torch.arange(len(layout)), signals=signals
    )
    pruner = registry.build("holov", {"chunks": 3, **settings})
    return pruner.prune(tokens, Stage(INPUT, count)).index.tolist()


ATTENTION = [0.1, 0.3, 0.2, 0.05, 0.05, 0.0, 0.1, 0.1, 0.1]


def test_stretches_get_what_they_are_worth() -> None:
    # mean attention 0.6, 0.1, 0.3 of 1: of five 3, 0.5 and 1.5, and one left for the first
    picks = order(ATTENTION, 4)
    # 2.4, 0.4, 1.2 of four: 2, 0, 1, and the one left goes to the first
    assert picks == [1, 2, 0, 6]
    # the highest token of all would be the whole first stretch, then 6
    assert order(ATTENTION, 2) == [1, 2]


def test_what_a_stretch_cannot_hold_goes_to_the_others() -> None:
    # 3.6 and 0.6 and 1.8 of six: 3, 0, 1; two left for the first and the last
    assert sorted(order(ATTENTION, 6)) == [0, 1, 2, 6, 7, 8]
    assert sorted(order(ATTENTION, 6, official=True)) == [0, 1, 2, 6, 7]


def test_every_count_is_met() -> None:
    for count in range(1, 10):
        assert len(set(order(ATTENTION, count))) == count
        assert len(set(order([0.0] * 9, count))) == count
