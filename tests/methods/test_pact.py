"""PACT: clusters, their sizes and lost tokens by hand, and a budget met exactly."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from prunebench import Layout, Signal, Stage, Tile, VisualTokens, llm, registry


def sample(keys: torch.Tensor) -> VisualTokens:
    count = len(keys)
    # with queries of 0 all keys are paid alike, so that norms alone rank
    features = torch.linspace(2, 1, count)[:, None]
    signals = {
        Signal.NEXT_QUERIES: torch.zeros(1, count, 2),
        Signal.NEXT_KEYS: keys[None],
        Signal.NEXT_ROTATED_KEYS: keys[None],
        Signal.VISUAL_PLACES: torch.arange(count),
    }
    layout = Layout((Tile(1, count),))
    return VisualTokens(features, layout, torch.arange(count), signals=signals)


def directions(*degrees: float) -> torch.Tensor:
    angle = torch.deg2rad(torch.tensor(degrees))
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def test_clusters_count_by_their_sizes() -> None:
    # of 0, 1 and 2 the last is nearest to the others; 4 is no candidate and joins 3, 5 is lost
    tokens = sample(directions(0, 5, 10, 90, 100, 200))
    method: Any = registry.build("pact", {"share": 0.7})
    keep = method.prune(tokens, Stage(llm(4), 6)).ascending()
    assert keep.index.tolist() == [2, 3]
    torch.testing.assert_close(keep.bias, torch.tensor([3.0, 2.0]).log())
    features = tokens.features[:, 0]
    expected = torch.stack([features[:3].mean(), features[3:5].mean()])
    torch.testing.assert_close(keep.features[:, 0], expected)


@pytest.mark.parametrize("keep", [1, 2, 3, 7, 19])
def test_a_budget_solves_for_the_cutoff(keep: int) -> None:
    draw = torch.Generator().manual_seed(keep)
    tokens = sample(torch.randn(20, 2, generator=draw))
    assert len(registry.build("pact").prune(tokens, Stage(llm(4), keep)).index.unique()) == keep
    # equal tokens, too
    equal = sample(torch.ones(20, 2))
    assert len(registry.build("pact").prune(equal, Stage(llm(4), keep)).index.unique()) == keep
