"""SCOPE: coverage against attention by hand, and the sums kept against sums made anew."""

from __future__ import annotations

from typing import Any

import torch

from prunebench import INPUT, Layout, Signal, Stage, Tile, VisualTokens, greedy_cover, registry


def order(attention: Any, features: Any, count: int, **settings: Any) -> list[int]:
    rows = torch.as_tensor(features, dtype=torch.float32)
    layout = Layout((Tile(1, len(rows)),))
    signals = {
        Signal.CLS_ATTENTION: torch.as_tensor(attention, dtype=torch.float32)[None, None],
        Signal.ENCODER_FEATURES: rows[None],
    }
    tokens = VisualTokens(
        torch.zeros(len(rows), 1), layout, torch.arange(len(rows)), signals=signals
    )
    pruner = registry.build("scope", settings)
    return pruner.prune(tokens, Stage(INPUT, count)).index.tolist()


def test_a_covered_token_adds_nothing() -> None:
    # three alike, one by itself that is hardly looked at
    features = [[1, 0], [1, 0], [1, 0], [0, 1]]
    assert order([0.5, 0.3, 0.1, 0.1], features, 3) == [0, 3, 1]


def test_attention_decides_unless_it_does_not_count() -> None:
    features = [[1, 0], [1, 0], [0, 1]]
    # gains: 0.1 * 2, 0.2 * 2, 0.7 * 1
    assert order([0.1, 0.2, 0.7], features, 1) == [2]
    assert order([0.1, 0.2, 0.7], features, 1, alpha=0) == [0]


def test_sums_are_those_made_anew() -> None:
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(40, 30, generator=generator)
    gains, weights = torch.rand(30, generator=generator), torch.rand(40, generator=generator)
    covers = torch.zeros(40)
    expected: list[int] = []
    for _ in range(30):
        sums = gains * (weights[:, None] * (rows - covers[:, None]).clamp(min=0)).sum(0)
        sums[expected] = -1
        expected.append(int(sums.argmax()))
        covers = torch.maximum(covers, rows[:, expected[-1]])
    # what is covered through and through adds rounding alone: compare those that add something
    picks = greedy_cover(rows, gains, 30, weights).tolist()
    assert sorted(picks) == list(range(30))
    assert picks[:12] == expected[:12]
