"""MFPruner: votes and sums by hand, and no more than the budget."""

from __future__ import annotations

import importlib
from typing import Any

import torch

from prunebench import INPUT, Layout, Signal, Stage, Tile, VisualTokens, registry

mfpruner = importlib.import_module("prunebench.methods.mfpruner")


def sample(attention: Any, features: Any, clip: Any) -> VisualTokens:
    layout = Layout((Tile(1, len(attention)),))
    signals = {
        Signal.CLS_ATTENTION: torch.as_tensor(attention, dtype=torch.float32)[None, None],
        Signal.CLIP_PATCHES: torch.as_tensor(clip, dtype=torch.float32),
        Signal.CLIP_TEXT: torch.tensor([[1.0, 0.0]]),
    }
    rows = torch.as_tensor(features, dtype=torch.float32)
    return VisualTokens(rows, layout, torch.arange(len(layout)), signals=signals)


def test_two_votes_beat_the_highest_sum() -> None:
    cues = torch.tensor([[1.0, 0.4, 0.9, 0.0], [0.0, 0.9, 0.8, 1.0], [0.0, 1.0, 0.9, 0.2]])
    # the best two of each: 0 and 2, 3 and 1, 1 and 2
    assert mfpruner.voted(cues, 2).tolist() == [1, 2, 2, 1]


def test_a_token_that_is_looked_at_and_relevant_stays() -> None:
    # 0 is looked at most, 3 is unlike the others and least like the text, 1 is second in all
    attention = [9, 8, 0, 1]
    features = [[1, 0], [0.3, -0.95], [1, 0], [-1, 0.2]]
    clip = [[1, 0], [0, 1], [0.9, 0.1], [-1, 0]]
    tokens = sample(attention, features, clip)
    pruner = registry.build("mfpruner")
    votes = pruner.explain(tokens, Stage(INPUT, 2))["votes"]
    assert votes.tolist() == [1, 3, 0, 2]
    assert pruner.prune(tokens, Stage(INPUT, 2)).index.tolist() == [1, 3]


def test_every_count_is_met() -> None:
    generator = torch.Generator().manual_seed(2)
    numbers = torch.randn(3, 15, 2, generator=generator)
    tokens = sample(numbers[0, :, 0].abs(), numbers[1], numbers[2])
    for count in range(1, 16):
        index = registry.build("mfpruner").prune(tokens, Stage(INPUT, count)).index
        assert len(set(index.tolist())) == count
