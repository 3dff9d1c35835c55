"""MFPruner and EADP: votes by hand, words that point somewhere, and exact quotas."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from prunebench.methods.eadp import smoothed

from prunebench import INPUT, Layout, Signal, Stage, Tile, VisualTokens, registry

EAST, NORTH = [1.0, 0.0], [0.0, 1.0]


def test_two_votes_go_before_the_largest_sum() -> None:
    layout = Layout((Tile(1, 4),))
    signals = {
        # best of attention: 0, then 1; least like the question: 3, then 1
        Signal.CLS_ATTENTION: torch.tensor([[[0.9, 0.5, 0.1, 0.1]]]),
        Signal.CLIP_PATCHES: torch.tensor([EAST, [0.2, 1.0], [1.0, 0.1], NORTH]),
        Signal.CLIP_TEXT: torch.tensor([EAST]),
    }
    features = torch.tensor([EAST, EAST, NORTH, EAST])  # 2 is rare
    tokens = VisualTokens(features, layout, torch.arange(4), signals=signals)
    pruner = registry.build("mfpruner")
    values = pruner.explain(tokens, Stage(INPUT, 2))
    assert values["votes"].tolist() == [2, 2, 1, 1]
    assert pruner.prune(tokens, Stage(INPUT, 2)).index.sort().values.tolist() == [0, 1]


def words_of(tokens: VisualTokens, words: list[list[float]]) -> VisualTokens:
    signals = {
        Signal.CLIP_PATCHES: tokens.features,
        Signal.CLIP_TEXT: torch.tensor([NORTH]),
        Signal.CLIP_TEXT_TOKENS: torch.tensor([words]),
    }
    return replace(tokens, signals=signals)


def test_a_word_that_points_nowhere_does_not_count() -> None:
    layout = Layout((Tile(1, 5),))
    features = torch.tensor([EAST, EAST, EAST, EAST, [-1.0, 0.0]])
    tokens = VisualTokens(features, layout, torch.arange(5))
    pruner = registry.build("eadp", {"alpha": 0.0})
    groups = [torch.arange(5)]
    # of five words one stays: the one whose minus cosine singles out the last patch
    clear, vague = EAST, NORTH
    relevance = pruner.relevance(words_of(tokens, [vague, vague, clear, vague, vague]), groups)
    assert relevance.tolist() == pytest.approx([-1, -1, -1, -1, 1])


def test_smoothing_keeps_what_is_even() -> None:
    even = torch.full((3, 4), 0.7)
    assert torch.allclose(smoothed(even), even)
    assert torch.allclose(smoothed(even[:1]), even[:1])
    peak = torch.zeros(3, 3)
    peak[1, 1] = 1
    ratio = smoothed(peak)[1, 1] / smoothed(peak)[0, 1]
    # the border sees the peak twice, once mirrored
    assert float(ratio) == pytest.approx(float(torch.tensor(0.5).exp()) / 2)


@pytest.mark.parametrize("count", range(1, 13))
def test_quotas_of_crops_spend_the_budget(count: int) -> None:
    layout = Layout((Tile(2, 2, "thumbnail"), Tile(2, 2, "crop"), Tile(2, 2, "crop")))
    features = torch.randn(12, 2, generator=torch.Generator().manual_seed(0))
    tokens = words_of(VisualTokens(features, layout, torch.arange(12)), [EAST, NORTH])
    index = registry.build("eadp").prune(tokens, Stage(INPUT, count)).index
    assert len(set(index.tolist())) == count
