"""G-Prune: importance gathers among tokens that look alike, and crops are a graph of their own."""

from __future__ import annotations

import pytest
import torch

from prunebench import INPUT, Layout, Stage, Tile, VisualTokens, registry


def sample(features: list[list[float]], *kinds: str) -> VisualTokens:
    rows = torch.tensor(features)
    layout = Layout(tuple(Tile(1, len(rows) // len(kinds), kind) for kind in kinds))
    return VisualTokens(rows, layout, torch.arange(len(rows)))


def test_without_edges_a_token_counts_by_its_length() -> None:
    tokens = sample([[2.0, 0, 0], [0, 3, 0], [0, 0, 1]], "image")
    pruner = registry.build("gprune")
    scores = pruner.explain(tokens, Stage(INPUT, 2))["scores"]
    assert scores.tolist() == pytest.approx([2, 3, 1])
    assert pruner.prune(tokens, Stage(INPUT, 2)).index.tolist() == [1, 0]


def test_equal_tokens_share_and_are_divided_by_their_number() -> None:
    tokens = sample([[2.0, 0], [2, 0], [2, 0], [0, 1]], "image")
    scores = registry.build("gprune").explain(tokens, Stage(INPUT, 2))["scores"]
    # each of three passes all of its 2 on and gets 2, over three edges
    assert scores.tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 3, 1])


def test_crops_are_one_graph_and_the_thumbnail_another() -> None:
    tokens = sample([[1.0, 0], [0, 2], [9, 0], [8, 0], [0, 7], [0, 6]], "thumbnail", "crop", "crop")
    # a third of each graph
    picks = registry.build("gprune", {"similarity": 1}).prune(tokens, Stage(INPUT, 3)).index
    assert picks.tolist() == [1, 2, 3]
