"""DUET-VLM: the pool by hand, the order of rows, and what a budget does to its stages."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from prunebench import INPUT, Budget, Layout, Signal, Stage, Tile, VisualTokens, registry
from prunebench.registry import RegistryError

EAST, NORTH = [1.0, 0.0], [0.0, 1.0]


def sample(attention: list[float], keys: Any) -> VisualTokens:
    layout = Layout((Tile(1, len(attention)),))
    signals = {
        Signal.CLS_ATTENTION: torch.tensor(attention)[None, None],
        Signal.ENCODER_KEYS: torch.tensor(keys)[None, None],
    }
    features = torch.arange(1.0, len(layout) + 1)[:, None]
    return VisualTokens(features, layout, torch.arange(len(layout)), signals=signals)


def test_runners_up_are_summed_and_the_rest_leaves() -> None:
    keys = [EAST, NORTH, EAST, NORTH, EAST, NORTH, EAST]
    tokens = sample([0.1, 0.6, 0.4, 0.9, 0.3, 0.5, 0.0], keys)
    pruner = registry.build("duet_vlm", {"contextual": 0.5, "width": 2})
    keep = pruner.prune(tokens, Stage(INPUT, 4))
    # 3 and 1 stay; 5, 2, 4, 0 are the pool, 5 and 4 its anchors; 2 and 0 are like 4; 6 leaves
    assert keep.index.tolist() == [1, 3, 5, 4]
    assert keep.order == "given"
    assert keep.features is not None
    assert keep.features[:, 0].tolist() == [2, 4, 6, 5 + (3 + 1) / 2]


@pytest.mark.parametrize("count", range(1, 8))
def test_every_row_of_the_budget_is_a_token(count: int) -> None:
    tokens = sample([0.1, 0.6, 0.4, 0.9, 0.3, 0.5, 0.0], [EAST, NORTH] * 3 + [EAST])
    index = registry.build("duet_vlm").prune(tokens, Stage(INPUT, count)).index
    assert len(set(index.tolist())) == count


def test_a_budget_scales_the_published_stages() -> None:
    pruner = registry.build("duet_vlm")
    assert [stage.keep for stage in pruner.plan(None, 576, 32)] == [205, 102, 0]
    # 192 tokens a layer: 300 and 7 of 576 as published, half of them from the middle on
    stages = pruner.plan(Budget(192), 576, 32)
    assert [str(stage.site) for stage in stages] == ["input", "llm:16", "llm:24"]
    assert [stage.keep for stage in stages] == pytest.approx([307, 153, 0], abs=2)
    with pytest.raises(RegistryError, match=r"ratios are \[0.5\]; they fall within 1..0"):
        registry.build("duet_vlm", {"ratios": (0.5,)})
