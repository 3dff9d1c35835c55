"""ToMe: one merge by hand, sizes that travel, and the exact budget in few blocks."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from prunebench import Budget, Keep, Layout, Signal, Stage, Tile, VisualTokens, registry, vision
from prunebench.testing.samples import facts

EAST, NORTH, HALFWAY = [1.0, 0.0], [0.0, 1.0], [1.0, 0.9]


def sample(keys: Any, layer: int = 1) -> VisualTokens:
    layout = Layout((Tile(1, len(keys)),))
    signals = {Signal.ENCODER_KEYS: torch.tensor(keys)[None, None]}
    features = torch.arange(float(len(keys)))[:, None]
    return VisualTokens(
        features, layout, torch.arange(len(keys)), vision(before=layer), signals=signals
    )


def kept(tokens: VisualTokens, count: int, **settings: Any) -> Keep:
    return registry.build("tome", settings).prune(tokens, Stage(tokens.site, count))


def test_the_most_similar_pair_merges() -> None:
    # 1 and 3 may merge, into 0 or 2: 1 is as 2, 3 only nearly as 0
    tokens = sample([EAST, NORTH, NORTH, HALFWAY])
    keep = kept(tokens, 3)
    assert keep.index.tolist() == [0, 2, 3]
    assert keep.features is not None
    assert keep.bias is not None
    assert keep.features[:, 0].tolist() == [0, 1.5, 3]
    assert keep.bias.exp().tolist() == pytest.approx([1, 2, 1])
    assert kept(tokens, 3, proportional=False).bias is None


def test_sizes_travel_from_block_to_block() -> None:
    first = sample([EAST, NORTH, NORTH, HALFWAY])
    index = kept(first, 3).index
    keys = torch.tensor([[0.9, 1.0], NORTH, EAST])[None, None]
    later = VisualTokens(
        torch.tensor([[0.0], [1.5], [3.0]]),
        first.layout,
        index,
        vision(before=2),
        memo=first.memo,
        signals={Signal.ENCODER_KEYS: keys},
    )
    # rows are listed 3, 0, 2: the one that stayed, then those merged into; 0 alone may merge
    keep = kept(later, 2)
    assert keep.index.tolist() == [1, 2]
    assert keep.features is not None
    assert keep.bias is not None
    # it is more like 2, which already stands for two
    assert keep.features[:, 0].tolist() == [1, 3]
    # and the block before has already counted them
    assert keep.bias.exp().tolist() == pytest.approx([1.5, 1])


@pytest.mark.parametrize("count", range(1, 10))
def test_a_block_merges_again_where_half_is_not_enough(count: int) -> None:
    keys = torch.randn(9, 4, generator=torch.Generator().manual_seed(0)).tolist()
    keep = kept(sample(keys), count)
    assert len(set(keep.index.tolist())) == count
    assert keep.features is not None
    assert keep.bias is not None
    # nothing is lost: 0 + 1 + ... + 8
    assert float((keep.features[:, 0] * keep.bias.exp()).sum()) == pytest.approx(36)


def test_every_block_merges_as_many() -> None:
    pruner = registry.build("tome").prepared(facts())
    stages = pruner.plan(Budget(0.25), 56, 28)
    assert [stage.site.layer for stage in stages] == [1, 2, 3, 4, 5, 6, 7]
    assert [stage.keep for stage in stages] == [50, 44, 38, 32, 26, 20, 14]
