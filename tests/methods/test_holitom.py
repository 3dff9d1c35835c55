"""HoliTom: windows by hand, what static tokens become, exact counts, and the stage inside."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from prunebench import (
    INPUT,
    Budget,
    BudgetError,
    Keep,
    Layout,
    Signal,
    Stage,
    Tile,
    VisualTokens,
    llm,
    registry,
)

SIZE = 3


def video(degrees: list[list[float]], received: list[float]) -> VisualTokens:
    """A token is a direction, given in degrees, frame by frame."""
    angle = torch.deg2rad(torch.tensor(degrees).flatten())
    features = torch.stack([angle.cos(), angle.sin()], dim=1)
    tiles = [Tile(1, SIZE, "frame", frame=frame) for frame in range(len(degrees))]
    layout = Layout(tuple(tiles))
    signals = {Signal.RECEIVED_ATTENTION: torch.tensor(received)[None, None]}
    return VisualTokens(features, layout, torch.arange(len(layout)), signals=signals)


SCENES = video(
    [[0.0, 90, 0], [4, 90, 120], [8, 90, 240], [200, 300, 0], [200, 301, 200]],
    [1.0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
)
"""Tokens 0 and 1 stand still for three frames, then for two."""


def answer(count: int, **settings: Any) -> tuple[Keep, dict[str, torch.Tensor]]:
    pruner = registry.build("holitom", settings)
    stage = Stage(INPUT, count)
    return pruner.prune(SCENES, stage), pruner.explain(SCENES, stage)


def test_windows_merge_most_static_tokens() -> None:
    keep, values = answer(8)
    # 2 x (3 - 1) + 2 x (2 - 1)
    assert values["segments"].tolist() == [[0, 2], [3, 4]]
    assert values["static_reduced"].tolist() == [6]
    assert len(keep.index) == 8


def test_static_tokens_become_their_mean_over_the_window() -> None:
    keep, _ = answer(9)
    rows = dict(zip(keep.index.tolist(), keep.features, strict=True))  # type: ignore[arg-type]
    assert sorted(rows) == [0, 1, 2, 5, 8, 9, 10, 11, 14]
    mean = SCENES.features[[0, 3, 6]].mean(0)
    assert torch.allclose(rows[0], mean)
    assert torch.allclose(rows[5], SCENES.features[5])


def test_a_peak_mixes_with_what_joins_it() -> None:
    """With r = 0.5 one of the two static tokens of each window takes up the other."""
    keep, _ = answer(7)
    rows = dict(zip(keep.index.tolist(), keep.features, strict=True))  # type: ignore[arg-type]
    assert sorted(rows) == [0, 2, 5, 8, 9, 11, 14]
    first, second = (SCENES.features[[i, i + 3, i + 6]].mean(0) for i in (0, 1))
    assert torch.allclose(rows[0], 0.6 * first + 0.4 * second)


@pytest.mark.parametrize("count", range(1, 15))
def test_meets_every_budget(count: int) -> None:
    keep, _ = answer(count)
    assert len(set(keep.index.tolist())) == count
    assert len(set(answer(count, ratio=0.01)[0].index.tolist())) == count


def test_a_ratio_above_the_budget_is_refused() -> None:
    with pytest.raises(BudgetError, match=r"holitom\.ratio makes 4 of static tokens where the bud"):
        answer(3, ratio=1.0)


def test_dropped_tokens_join_one_after_another() -> None:
    """Tokens 1, 2 and 4 join token 0 in their order: each halves what was there."""
    features = torch.tensor([[8.0, 0], [4, 0], [2, 0], [0, 5], [16, 1]])
    attention = torch.tensor([[9.0, 1, 2, 8, 3]])
    signals = {Signal.LAST_QUERY_ATTENTION: attention}
    tokens = VisualTokens(features, Layout((Tile(1, 5),)), torch.arange(5), llm(2), signals=signals)
    keep = registry.build("holitom").prune(tokens, Stage(llm(2), 2))
    assert keep.index.tolist() == [0, 3]
    assert keep.features is not None
    # ((8 + 4) / 2 + 2) / 2 = 4, (4 + 16) / 2 = 10
    assert keep.features.tolist() == [[10.0, 0.5], [0, 5]]


def test_plans_both_stages() -> None:
    first, second = registry.build("holitom").plan(Budget(0.25), 1000, 28)
    assert (str(first.site), str(second.site)) == ("input", "llm:18")
    assert second.keep == pytest.approx(first.keep / 2, abs=2)
    (alone,) = registry.build("holitom", {"inside": False}).plan(Budget(0.25), 1000, 28)
    assert alone == Stage(INPUT, 250)
