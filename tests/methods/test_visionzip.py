"""VisionZip: who merges into whom, by hand, and the exact budget where a CLS row would stand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from prunebench import INPUT, Keep, Layout, Signal, Stage, Tile, VisualTokens, registry
from prunebench.registry import RegistryError


def sample(attention: list[float], keys: Any, newlines: bool = False) -> VisualTokens:
    layout = Layout((Tile(2, len(attention) // 2 - newlines, newlines=newlines),))
    signals = {
        Signal.CLS_ATTENTION: torch.tensor(attention)[None, None],
        Signal.ENCODER_KEYS: torch.as_tensor(keys, dtype=torch.float32)[None, None],
    }
    features = torch.arange(1.0, len(layout) + 1)[:, None]
    return VisualTokens(features, layout, torch.arange(len(layout)), signals=signals)


def kept(tokens: VisualTokens, count: int, **settings: Any) -> Keep:
    return registry.build("visionzip", settings).prune(tokens, Stage(INPUT, count))


EAST, NORTH = [1.0, 0.0], [0.0, 1.0]


def test_others_are_added_to_the_target_most_like_them() -> None:
    tokens = sample([0.0, 0.9, 0.1, 0.2, 0.0, 0.8], [EAST, EAST, EAST, NORTH, NORTH, EAST])
    keep = kept(tokens, 4, contextual=0.5)
    # 1 and 5 are dominant; of 0, 2, 3, 4 every second is a target: 0 and 3
    assert keep.index.tolist() == [1, 5, 0, 3]
    assert keep.features is not None
    # 2 joins 0, and 4 joins 3: a target plus the mean of what joined, not the mean of all
    assert keep.features[:, 0].tolist() == [2, 6, 1 + 3, 4 + 5]


def test_a_target_alone_stays_as_it_is() -> None:
    tokens = sample([0.0, 0.9, 0.1, 0.2], [EAST, EAST, NORTH, EAST])
    keep = kept(tokens, 3, contextual=0.67)
    assert keep.features is not None
    assert dict(zip(keep.index.tolist(), keep.features[:, 0].tolist(), strict=True)) == {
        1: 2,
        0: 1 + 4,
        2: 3,
    }


@pytest.mark.parametrize("count", range(1, 9))
def test_every_row_of_the_budget_is_a_token(count: int) -> None:
    tokens = sample([0.3, 0.2, 0.1, 0.0] * 2, [EAST, NORTH, EAST, NORTH] * 2, newlines=True)
    index = kept(tokens, count).index
    assert len(set(index.tolist())) == count
    # newlines at 3 and 7 stay when all patches do
    assert ({3, 7} & set(index.tolist()) == set()) == (count <= 6)


def test_received_attention_stands_in() -> None:
    tokens = sample([0.0, 0.9, 0.1, 0.2], [EAST] * 4)
    shown: dict[Signal, Any] = dict(tokens.signals)
    shown[Signal.RECEIVED_ATTENTION] = tokens.cls_attention.flip(-1)
    del shown[Signal.CLS_ATTENTION]
    pruner = registry.build("visionzip", {"contextual": 0})
    assert pruner.stand_ins[Signal.CLS_ATTENTION] is Signal.RECEIVED_ATTENTION
    other = VisualTokens(tokens.features, tokens.layout, tokens.index, signals=shown)
    assert pruner.prune(other, Stage(INPUT, 1)).index.tolist() == [2]
    with pytest.raises(RegistryError, match="attention is 'mean'; it is 'auto', 'cls' or"):
        registry.build("visionzip", {"attention": "mean"})
