"""TransPrune: a weight by hand, sums over the rows that went through a layer, other depths."""

from __future__ import annotations

from dataclasses import replace
from math import e
from typing import Any

import torch

from prunebench import Layout, Signal, Tile, VisualTokens, llm, registry
from prunebench.testing.samples import facts


def sample(transitions: torch.Tensor, places: list[int], memo: Any, site: int) -> VisualTokens:
    count = len(places)
    signals = {
        Signal.TRANSITIONS: transitions,
        Signal.VISUAL_PLACES: torch.tensor(places),
        Signal.NEXT_TEXT_ATTENTION: torch.full((1, 1, count), 1.0),
    }
    layout = Layout((Tile(1, 2),))
    index = torch.arange(2)[-count:]
    rows = torch.zeros(count, 1)
    return VisualTokens(rows, layout, index, site=llm(site), memo=memo, signals=signals)


def test_weights_by_hand() -> None:
    method: Any = registry.build(
        "transprune",
        {"layers": (1, 2), "accumulating": (1, 2), "ratios": (0.5, 0.5), "depth": 4},
    )
    # text, then two tokens: norms 1, 2, 3; token 1 turns by a right angle
    first = torch.tensor([[1.0, 1], [2, 0], [3, 1]])
    transitions = torch.stack([first, torch.zeros(3, 2)])[None]
    memo: dict[str, Any] = {}
    weights = method.weights(sample(transitions, [1, 2], memo, 1))
    torch.testing.assert_close(weights, torch.tensor([2 * e, 3.0]) / (2 + e))
    # token 0 has left: its turn still counts in the sum of the layer that it went through
    second = torch.ones(2, 2)
    later = torch.stack([torch.stack([first[[0, 2]], torch.zeros(2, 2)]), second.expand(2, 2, 2)])
    weights = method.weights(sample(later, [1], memo, 2))
    torch.testing.assert_close(weights, torch.tensor([3 / (2 + e) + 0.5 + 0.5]))


def test_layers_follow_the_depth() -> None:
    method: Any = registry.build("transprune").prepared(replace(facts(), layers=16))
    assert (method.layers, method.accumulating) == ((4, 6), (4, 5, 6))
    assert method.ratios == (0.625, 0.125)


def test_layers_that_keep_a_state_are_passed_by() -> None:
    hybrid = replace(facts(), layers=16, stateful=frozenset(range(0, 16, 2)))
    method: Any = registry.build("transprune").prepared(hybrid)
    assert [layer % 2 for layer in method.layers] == [1] * len(method.layers)
    assert [(layer - 1) % 2 for layer in method.accumulating] == [1] * len(method.accumulating)
    assert method.layers[0] >= method.accumulating[0]
