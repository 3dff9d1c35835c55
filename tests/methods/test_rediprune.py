"""ReDiPrune: the question's vector and the picks by hand, and which candidates `tau` leaves."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch

from prunebench import INPUT, Layout, Signal, Stage, Tile, VisualTokens, registry

rediprune = importlib.import_module("prunebench.methods.rediprune")


def sample(degrees: list[float], text: Any, behind: int) -> VisualTokens:
    """Tokens on a circle and text rows, the last `behind` of which stand behind the image."""
    angle = torch.deg2rad(torch.tensor(degrees))
    layout = Layout((Tile(1, len(degrees)),))
    rows = torch.as_tensor(text, dtype=torch.float32)
    before = len(rows) - behind
    places = torch.arange(len(degrees) + len(rows))
    signals = {
        Signal.ENCODER_FEATURES: torch.stack([angle.cos(), angle.sin()], 1)[None],
        Signal.TEXT_FEATURES: rows,
        Signal.VISUAL_PLACES: places[before : before + len(degrees)],
        Signal.TEXT_PLACES: torch.cat([places[:before], places[before + len(degrees) :]]),
    }
    return VisualTokens(
        torch.zeros(len(degrees), 1), layout, torch.arange(len(degrees)), signals=signals
    )


def order(tokens: VisualTokens, count: int, **settings: Any) -> list[int]:
    pruner = registry.build("rediprune", settings)
    return pruner.prune(tokens, Stage(INPUT, count)).index.tolist()


def test_only_text_behind_the_image_asks() -> None:
    # the text before the image points up, that behind it to the right
    tokens = sample([0, 90, 180, 10], [[0, 9], [1, 0]], behind=1)
    # 0 is what is asked for; 2 is opposite (2 - 0.5), before 1 (1 + 0)
    assert order(tokens, 3) == [0, 2, 1]
    # with relevance counting for more what is near comes before what is far
    assert order(tokens, 2, alpha=3.0) == [0, 3]
    # without any text behind it all text asks
    alone = sample([0, 90, 180, 10], [[0, 9], [0, 1]], behind=0)
    assert order(alone, 1) == [1]


def test_later_words_count_more() -> None:
    tokens = sample([0, 90], [[1, 0], [0, 1]], behind=2)
    query = registry.build("rediprune").explain(tokens, Stage(INPUT, 1))["text_query"]
    near = float(torch.tensor(1.0).exp() / (1 + torch.tensor(1.0).exp()))
    late = float(torch.tensor(3.0).exp() / (1 + torch.tensor(3.0).exp()))
    assert query[1] == pytest.approx(late * near + (1 - late) * (1 - near))


def test_queries_are_folded_to_the_width() -> None:
    query = torch.tensor([1.0, 3, 5, 7])
    assert rediprune.folded(query, 2).tolist() == [2, 6]
    assert rediprune.folded(query, 6).tolist() == [1, 3, 5, 7, 1, 3]
    assert len(rediprune.folded(query, 3)) == 3


def test_tau_leaves_the_most_relevant() -> None:
    degrees = [0.0, 20, 40, 60, 80, 100, 120, 140, 180]
    tokens = sample(degrees, [[1, 0]], behind=1)
    # without it the opposite; with it one of the three most relevant, the last of them
    assert order(tokens, 2) == [0, 8]
    assert order(tokens, 1, tau=0.1) == [0]
    assert max(order(tokens, 2, tau=0.1)) == 5
