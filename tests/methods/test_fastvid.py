"""FastVID: segments by hand, who gets tokens of alike frames, and what a peak becomes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from prunebench import INPUT, BudgetError, Keep, Layout, Signal, Stage, Tile, VisualTokens, registry

SIZE = 4


def video(features: Any, received: Any) -> VisualTokens:
    """Frames of four tokens."""
    rows = torch.tensor(features, dtype=torch.float32)
    tiles = [Tile(2, 2, "frame", frame=frame) for frame in range(len(rows) // SIZE)]
    layout = Layout(tuple(tiles))
    attention = torch.tensor(received, dtype=torch.float32)[None, None]
    signals = {Signal.RECEIVED_ATTENTION: attention}
    return VisualTokens(rows, layout, torch.arange(len(layout)), signals=signals)


def keep(tokens: VisualTokens, count: int, **settings: Any) -> Keep:
    pruner = registry.build("fastvid", {"segments": 1, **settings})
    answer = pruner.prune(tokens, Stage(INPUT, count))
    assert len(set(answer.index.tolist())) == count
    return answer.ascending()


SCENES = [[1.0, 0], [1, 0], [1, 0.1], [1, 0]] * 3 + [[0.0, 1]] * 4
"""Three frames of one scene, then one of another."""


def test_the_last_of_alike_frames_gets_the_tokens() -> None:
    tokens = video(SCENES, [9, 9, 9, 9, 9, 9, 9, 9, 1, 2, 3, 4, 1, 2, 3, 4])
    # 3 of the first scene, a peak and two salient; a peak of the second
    assert keep(tokens, 4).index.tolist() == [8, 10, 11, 12]


def test_what_a_frame_has_no_room_for_goes_to_the_most_attended() -> None:
    tokens = video(SCENES, [9, 8, 7, 6, 9, 9, 9, 9, 1, 2, 3, 4, 1, 2, 3, 4])
    # 2 peaks and 2 salient of the 5 have room in frame 2
    assert keep(tokens, 6).index.tolist() == [0, 8, 9, 10, 11, 12]


@pytest.mark.parametrize(("form", "second"), [("qwen", 1.2), ("onevision", 0.8)])
def test_a_peak_mixes_with_what_joins_it(form: str, second: float) -> None:
    """Token 2 is salient; 0, the densest of the others, takes up 1 and 3, and maybe itself."""
    tokens = video([[2.0, 0], [4, 0], [0, 3], [0, 6]], [0, 0, 9, 0])
    answer = keep(tokens, 2, context=0.5, form=form)
    assert answer.index.tolist() == [0, 2]
    assert answer.features is not None
    assert torch.allclose(answer.features, torch.tensor([[2.0, second], [0, 3]]))


@pytest.mark.parametrize("form", ["qwen", "onevision"])
@pytest.mark.parametrize("count", [1, 2, 5, 9, 15])
def test_meets_every_budget_where_frames_saturate(form: str, count: int) -> None:
    keep(video(SCENES, list(range(16))), count, form=form)


def test_a_ratio_above_the_budget_is_refused() -> None:
    with pytest.raises(BudgetError, match=r"fastvid\.ratio 0\.9 gives 12 tokens where"):
        keep(video(SCENES, list(range(16))), 4, form="onevision", ratio=0.9, context=0.0)


def test_unknown_forms_are_refused() -> None:
    with pytest.raises(ValueError, match="form is 'llava'; it is 'qwen' or 'onevision'"):
        registry.build("fastvid", {"form": "llava"})
