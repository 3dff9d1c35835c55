"""MustDrop: windows, thresholds and protected tokens by hand, and a budget met exactly."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from prunebench import Layout, Signal, Stage, Tile, VisualTokens, llm, registry, vision


def asked(text: Any, cls: Any, keep: int, **settings: Any) -> list[int]:
    attention = torch.tensor(text)[None]
    count = attention.shape[-1]
    signals = {
        Signal.TEXT_ATTENTION: attention,
        Signal.CLS_ATTENTION: torch.tensor(cls)[None, None],
    }
    sample = VisualTokens(
        torch.zeros(count, 1),
        Layout((Tile(1, count),)),
        torch.arange(count),
        site=llm(3),
        signals=signals,
    )
    method = registry.build("mustdrop", {"protected": 0.1, **settings})
    return sorted(method.prune(sample, Stage(llm(3), keep)).index.tolist())


TEXT = [[0.30, 0.02, 0.01, 0.02], [0.30, 0.02, 0.09, 0.01]]
CLS = [0.1, 0.2, 0.1, 0.9]


def test_a_token_leaves_where_both_thresholds_say_so() -> None:
    # sums .60, .04, .10, .03 of .77; 3 is protected
    settings = {"shares": (0.2,), "least": (0.08,)}
    assert asked(TEXT, CLS, 4, **settings) == [0, 2, 3]
    assert asked(TEXT, CLS, 4, shares=(0.2,), least=(0.2,)) == [0, 3]
    assert asked(TEXT, CLS, 4, shares=(0.001,), least=(0.2,)) == [0, 1, 2, 3]


@pytest.mark.parametrize(("keep", "kept"), [(1, [3]), (2, [0, 3]), (3, [0, 2, 3])])
def test_a_budget_solves_for_the_thresholds(keep: int, kept: list[int]) -> None:
    assert asked(TEXT, CLS, keep) == kept


def test_uniform_windows_become_their_mean() -> None:
    features = torch.zeros(18, 3)
    features[:, 0] = 1.0
    # the right one of two windows shows several things
    is_right = torch.arange(18) % 6 >= 3
    features[is_right] = torch.eye(3).repeat(3, 1)
    features[0, 0] = 10.0
    sample = VisualTokens(features, Layout((Tile(3, 6),)), torch.arange(18))
    keep = registry.build("mustdrop").prune(sample, Stage(vision(1), 18)).ascending()
    assert keep.index.tolist() == [3, 4, 5, 9, 10, 11, 14, 15, 16, 17]
    assert keep.features is not None
    assert keep.features[6].tolist() == [2.0, 0, 0]
