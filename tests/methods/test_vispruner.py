"""VisPruner: one round by hand, with the order that the next one starts from, and odd lists."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

from prunebench import INPUT, Layout, Signal, Stage, Tile, VisualTokens, gram, registry


def sample(attention: Any, degrees: Any) -> VisualTokens:
    angle = torch.deg2rad(torch.as_tensor(degrees, dtype=torch.float32))
    layout = Layout((Tile(1, len(angle)),))
    signals = {
        Signal.CLS_ATTENTION: torch.as_tensor(attention, dtype=torch.float32)[None, None],
        Signal.ENCODER_FEATURES: torch.stack([angle.cos(), angle.sin()], 1)[None],
    }
    return VisualTokens(
        torch.zeros(len(angle), 1), layout, torch.arange(len(angle)), signals=signals
    )


def order(tokens: VisualTokens, count: int, **settings: Any) -> list[int]:
    pruner = registry.build("vispruner", settings)
    return pruner.prune(tokens, Stage(INPUT, count)).index.tolist()


def test_the_even_one_most_like_an_odd_one_leaves() -> None:
    # the list is 0, 1, 2, 3 by attention: 0 and 2 are even, and 2 looks like 1
    tokens = sample([0.4, 0.3, 0.2, 0.1, 0.9], [80, 10, 12, 40, 0])
    assert order(tokens, 4, important=0.25) == [4, 0, 1, 3]


def test_the_next_round_starts_from_the_ones_most_alike() -> None:
    # 0, 2, 4 are even; 4 leaves (1 degree from 5), then 2 comes before 0 (3 and 20 from 1)
    tokens = sample([0.6, 0.5, 0.4, 0.3, 0.2, 0.1], [30, 10, 13, 90, 61, 60])
    assert order(tokens, 5, important=0, step=1) == [2, 0, 1, 3, 5]
    # the list is now 2, 0, 1, 3, 5: of 2, 1 and 5 the two are 17 and 20 degrees from 0
    assert order(tokens, 4, important=0, step=1) == [1, 5, 0, 3]


@pytest.mark.parametrize("count", range(1, 18))
def test_lists_of_odd_length_are_thinned_too(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    tokens = sample(torch.rand(17, generator=generator), 360 * torch.rand(17, generator=generator))
    assert len(set(order(tokens, count))) == count


@pytest.mark.parametrize("tied", [False, True])
def test_rounds_go_on_as_if_every_cosine_were_looked_at(tied: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    unit = normalize(torch.randn(300, 8, generator=generator), dim=-1)
    if tied:
        unit[1::3] = unit[0::3]
    cosines = gram(unit)
    expected = torch.arange(300)
    # down to a tenth, so that hardly any of a token's nearest are left
    while len(expected) > 30:
        even, odd = expected[::2], expected[1::2]
        ranked = cosines[even][:, odd].amax(1).sort(descending=True, stable=True).indices
        leaving = min(8, len(expected) - 30)
        expected = torch.cat([even[ranked[leaving:]], odd])
    pruner: Any = registry.build("vispruner")
    assert pruner.thinned(unit, 30).tolist() == expected.tolist()
