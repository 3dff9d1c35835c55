"""IVC-Prune: coordinates by hand, and a budget filled up by value."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from prunebench import Budget, Layout, Signal, Stage, Tile, VisualTokens, llm, registry


def sample(count: int) -> VisualTokens:
    draw = torch.Generator().manual_seed(0)
    length = count + 6
    signals = {
        Signal.PROMPT_VALUES: torch.randn(2, length, 4, generator=draw),
        Signal.VISUAL_PLACES: torch.arange(count),
        Signal.TEXT_PLACES: torch.arange(count, length),
        Signal.POSITION_IDS: torch.arange(length)[None],
    }
    layout = Layout((Tile(1, count),))
    return VisualTokens(torch.zeros(count, 1), layout, torch.arange(count), signals=signals)


def method(**settings: Any) -> Any:
    turn = (torch.pi / 2,)  # the positions 0, 4, 8, ... are turned by nothing, 1, 5, ... by 90
    kind: Any = registry.get("ivc_prune")
    return kind(frequencies=turn, **settings)


def test_coordinates_are_where_rotations_are_simple() -> None:
    positions = method(coordinates=0.25, values=0.49).sets(sample(12), 12)["keep_positions"]
    assert set(positions.tolist()) == {0, 4, 8, 1, 5, 9}


@pytest.mark.parametrize("keep", [1, 2, 5, 9, 12])
def test_overlaps_are_filled_up_by_value(keep: int) -> None:
    tokens = sample(12)
    kept = method().prune(tokens, Stage(llm(16), keep)).index
    assert len(kept.unique()) == keep
    assert len(method(overlaps=True).prune(tokens, Stage(llm(16), 12)).index) < 12


def test_the_stage_cuts_the_caches_before_it() -> None:
    (stage,) = method().plan(Budget(0.75), 100, 32)
    assert (stage.keep, stage.compact) == (50, True)
    assert method().plan(None, 100, 32)[0].keep == 31
