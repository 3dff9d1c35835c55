"""DART: pivots and what is least like them by hand, runs of their own on embeddings."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from prunebench import INPUT, Layout, Signal, Stage, Tile, VisualTokens, llm, registry


def sample(features: Any, text: Any, places: list[int], text_places: list[int]) -> VisualTokens:
    rows = torch.tensor(features, dtype=torch.float32)
    signals = {
        Signal.TEXT_FEATURES: torch.tensor(text, dtype=torch.float32),
        Signal.VISUAL_PLACES: torch.tensor(places),
        Signal.TEXT_PLACES: torch.tensor(text_places),
    }
    layout = Layout((Tile(1, len(rows)),))
    return VisualTokens(rows, layout, torch.arange(len(rows)), signals=signals)


def test_pivots_keep_what_is_least_like_them() -> None:
    features = [[5.0, 0], [1, 0], [0, 1], [-1, 0], [0.9, 0.1]]
    tokens = sample(features, [[0, 1], [0, 2]], [1, 2, 3, 4, 5], [0, 6])
    keys = torch.zeros(1, 7, 1)
    # the largest keys of the image, and of the text behind it; those in front do not count
    keys[0, :, 0] = torch.tensor([99.0, 9, 1, 1, 1, 1, 3])
    tokens.signals[Signal.PROMPT_KEYS] = keys  # type: ignore[index]
    method: Any = registry.build("dart", {"image_pivots": 1, "text_pivots": 1})
    stage = Stage(llm(2), 3)
    # 3 is opposite to the visual pivot 0; 1 is at right angles to the text, and 4 nearly
    assert method.prune(tokens, stage).index.tolist() == [0, 3, 1]
    assert method.explain(tokens, stage)["text_pivots"].tolist() == [6]


@pytest.mark.parametrize("keep", [1, 2, 3, 5, 9, 11, 12])
def test_every_run_gets_its_part_on_embeddings(keep: int) -> None:
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(12, 3, generator=draw).tolist()
    tokens = sample(features, [[1.0, 0, 0]] * 3, [1, 2, 3, 4, *range(6, 14)], [0, 5, 14])
    method: Any = registry.build("dart", {"states": "embeddings"})
    values = method.explain(tokens, Stage(INPUT, keep))
    assert len(values["chosen"].unique()) == keep
    first = int(values["budgets"][0])
    assert abs(first - keep / 3) < 1
    assert int((values["chosen"] < 4).sum()) == first


def test_refuses_other_states() -> None:
    with pytest.raises(registry.RegistryError, match="it is 'layer' or 'embeddings'"):
        registry.build("dart", {"states": "keys"})
