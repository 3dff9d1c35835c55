"""CDPruner: relevance and diversity by hand, budgets beyond the rank, and OpenVINO's halves."""

from __future__ import annotations

from typing import Any

import torch

from prunebench import INPUT, Layout, Signal, Stage, Tile, VisualTokens, registry


def sample(features: Any, clip: Any, tiles: int = 1) -> VisualTokens:
    rows = torch.as_tensor(features, dtype=torch.float32)
    layout = Layout(tuple(Tile(1, len(rows) // tiles, image=image) for image in range(tiles)))
    signals = {
        Signal.CLIP_PATCHES: torch.as_tensor(clip, dtype=torch.float32),
        Signal.CLIP_TEXT: torch.tensor([[1.0, 0.0]]),
        Signal.TEXT_FEATURES: torch.tensor([[1.0, 0.0]]),
    }
    return VisualTokens(rows, layout, torch.arange(len(rows)), signals=signals)


def order(tokens: VisualTokens, count: int, **settings: Any) -> list[int]:
    pruner = registry.build("cdpruner", settings)
    return pruner.prune(tokens, Stage(INPUT, count)).index.tolist()


def test_the_least_alike_in_clip_comes_first_then_what_differs_from_it() -> None:
    # cosines to the text 1, 0, -1, -0.6: relevance 0, 0.5, 1, 0.8
    clip = [[1, 0], [0, 1], [-1, 0], [-0.6, 0.8]]
    features = [[1, 0], [0, 1], [1, 0], [1, 0.01]]
    # 2 is the most relevant; 3 looks like 2, and 1 does not
    assert order(sample(features, clip), 3) == [2, 1, 3]
    # with a plus the first patch is the most relevant
    assert order(sample(features, clip), 1, negative=False) == [0]


def test_what_is_spanned_follows_by_relevance_and_never_twice() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(12, 2, generator=generator)
    clip = torch.randn(12, 2, generator=generator)
    picks = order(sample(features, clip), 10)
    assert len(set(picks)) == 10
    relevance = -torch.nn.functional.cosine_similarity(clip, torch.tensor([[1.0, 0.0]]))
    rest = relevance[picks[2:]].tolist()
    # two picks span the plane
    assert rest == sorted(rest, reverse=True)


def test_the_scale_is_one_for_all_tiles() -> None:
    clip = [[1, 0], [0.9, 0.1], [-0.9, 0.1], [-1, 0]]
    tokens = sample(torch.eye(4), clip, tiles=2)
    scores = registry.build("cdpruner").explain(tokens, Stage(INPUT, 2))["scores"]
    assert scores[:2].max() < 0.1
    assert scores[2:].min() > 0.9


def test_openvino_gives_both_halves_as_much() -> None:
    clip = torch.zeros(8, 2)
    # all that the question asks for lies in the first half
    features = [[1.0, 0.1 * number] for number in range(4)] + [[0.0, 1.0]] * 4
    tokens = sample(features, clip)
    halves = order(tokens, 4, engine="openvino")
    assert sorted(pick // 4 for pick in halves) == [0, 0, 1, 1]
    assert registry.build("cdpruner", {"engine": "openvino"}).needs == {Signal.TEXT_FEATURES}
    whole = order(tokens, 4, engine="openvino", split=0)
    assert sorted(pick // 4 for pick in whole) != [0, 0, 1, 1]
