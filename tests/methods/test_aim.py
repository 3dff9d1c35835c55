"""AIM: merging and a page rank by hand, and the published schedule."""

from __future__ import annotations

from typing import Any

import torch

from prunebench import INPUT, Layout, Signal, Stage, Tile, VisualTokens, llm, registry


def test_even_places_merge_into_odd_ones() -> None:
    features = torch.tensor([[1.0, 0], [0, 2], [0, 4], [3, 0], [1, 1.2]])
    sample = VisualTokens(features, Layout((Tile(1, 5),)), torch.arange(5))
    method = registry.build("aim")
    keep = method.prune(sample, Stage(INPUT, 3))
    # 0 goes into 3 and 2 into 1; 4, the least like, stays and comes first
    assert (keep.index.tolist(), keep.order) == ([4, 1, 3], "given")
    assert keep.features is not None
    torch.testing.assert_close(keep.features, torch.tensor([[1.0, 1.2], [0, 3], [2, 0]]))
    # two rounds: 4 and 3 are sources of the second one
    assert method.prune(sample, Stage(INPUT, 2)).index.tolist() in ([4, 1], [1, 3], [3, 1])


def test_page_rank_follows_the_links() -> None:
    # two places; the second looks at the first alone
    queries = torch.tensor([[[0.0, 0], [90, 0]]])
    keys = torch.tensor([[[1.0, 0], [0, 1]]])
    signals = {
        Signal.PROMPT_QUERIES: queries,
        Signal.PROMPT_KEYS: keys,
        Signal.VISUAL_PLACES: torch.arange(2),
    }
    sample = VisualTokens(
        torch.zeros(2, 1), Layout((Tile(1, 2),)), torch.arange(2), site=llm(2), signals=signals
    )
    method: Any = registry.build("aim")
    torch.testing.assert_close(method.score(sample), torch.tensor([1.0, 0.0]))


def test_the_schedule_ends_without_visual_tokens() -> None:
    stages = registry.build("aim").plan(None, 256, 28)
    assert [(str(stage.site), stage.keep) for stage in stages] == [
        ("input", 64),
        *((f"llm:{15 + step}", 56 - 8 * step) for step in range(8)),
    ]
