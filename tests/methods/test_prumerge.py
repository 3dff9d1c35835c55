"""PruMerge and PruMerge+: sums and the summary by hand, exact budgets, outliers and the grid."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from prunebench import INPUT, Keep, Layout, Signal, Stage, Tile, VisualTokens, registry


def sample(attention: list[float], degrees: list[float]) -> VisualTokens:
    layout = Layout((Tile(1, len(attention)),))
    angle = torch.deg2rad(torch.tensor(degrees))
    signals = {
        Signal.RECEIVED_ATTENTION: torch.tensor(attention)[None, None],
        Signal.ENCODER_KEYS: torch.stack([angle.cos(), angle.sin()], 1)[None, None],
    }
    features = torch.tensor([10.0**place for place in range(len(attention))])[:, None]
    return VisualTokens(features, layout, torch.arange(len(layout)), signals=signals)


def kept(name: str, tokens: VisualTokens, count: int, **settings: Any) -> Keep:
    pruner = registry.build(name, {"attention": "received", **settings})
    return pruner.prune(tokens, Stage(INPUT, count))


def test_survivors_and_the_summary_are_sums() -> None:
    tokens = sample([0.1, 0.5, 0.2, 0.4], [0, 90, 80, 10])
    keep = kept("prumerge", tokens, 3, neighbours=1)
    # 1 and 3 survive; 2 is nearest to 1, 0 to 3; the summary stands at 2, the first of the dropped
    assert keep.index.tolist() == [1, 3, 2]
    assert keep.features is not None
    rows = keep.features[:, 0].tolist()
    assert rows == pytest.approx([10 + 0.2 * 100, 1000 + 0.1 * 1, 0.1 * 1 + 0.2 * 100])


def test_the_attention_is_that_of_one_wide_head() -> None:
    keys = torch.tensor([[[1.0], [0], [2]], [[0], [1.0], [2]]])  # [H, N, 1]
    signals = {
        Signal.ENCODER_KEYS: keys[None],
        Signal.CLS_QUERIES: torch.tensor([[3.0]], dtype=torch.float32).expand(2, 1, 1)[None],
        Signal.CLS_KEYS: torch.zeros(1, 2, 1, 1),
    }
    layout = Layout((Tile(1, 3),))
    tokens = VisualTokens(torch.zeros(3, 1), layout, torch.arange(3), signals=signals)
    scores = registry.build("prumerge").explain(tokens, Stage(INPUT, 2))["cls_attention"]
    logits = torch.tensor([0.0, 3, 3, 12]) / 2**0.5
    assert torch.allclose(scores[0, 0], logits.softmax(0)[1:])


@pytest.mark.parametrize("name", ["prumerge", "prumerge_plus"])
def test_every_budget_is_met(name: str) -> None:
    generator = torch.Generator().manual_seed(5)
    attention = torch.rand(20, generator=generator).tolist()
    tokens = sample(attention, (360 * torch.rand(20, generator=generator)).tolist())
    for count in range(1, 21):
        keep = kept(name, tokens, count)
        assert len(set(keep.index.tolist())) == count


def test_outliers_decide_and_a_budget_caps_them() -> None:
    attention = [0.01] * 18 + [0.9, 0.8]
    tokens = sample(attention, [0.0] * 20)
    # two stand out, and the summary
    assert kept("prumerge", tokens, 20, adaptive=True).index.tolist() == [18, 19, 0]
    # one, and the summary at the other
    assert kept("prumerge", tokens, 2, adaptive=True).index.tolist() == [18, 19]
    # 20 / 2 / 3, rounded down: every third
    grid = kept("prumerge_plus", tokens, 20, adaptive=True).index.tolist()
    assert grid == [18, 19, 0, 3, 6, 9, 12, 15, 1]


def test_three_parts_of_four_lie_at_equal_distances() -> None:
    tokens = sample([0.0] * 12 + [0.9], [0.0] * 13)
    assert kept("prumerge_plus", tokens, 5).index.tolist()[:4] == [12, 2, 6, 10]


def test_rows_go_on_as_they_were_chosen_where_asked() -> None:
    tokens = sample([0.1, 0.5, 0.2, 0.4], [0, 90, 80, 10])
    assert kept("prumerge", tokens, 3).settled().index.tolist() == [1, 2, 3]
    assert kept("prumerge", tokens, 3, order="given").settled().index.tolist() == [1, 3, 2]
