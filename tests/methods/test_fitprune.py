"""FitPrune: a product of two means by hand, and the published tables."""

from __future__ import annotations

from typing import Any

import torch

from prunebench import Budget, Layout, Signal, Stage, Tile, VisualTokens, llm, registry


def test_a_token_needs_image_and_text() -> None:
    # of two heads the larger counts, for every pair by itself
    visual = torch.zeros(2, 3, 3)
    visual[0, 2] = torch.tensor([0.6, 0.3, 0.1])
    visual[1, 1] = torch.tensor([0.3, 0.6, 0.0])
    text = torch.tensor([[[0.1, 0.2, 0.4]], [[0.1, 0.3, 0.1]]])
    signals = {Signal.VISUAL_ATTENTION: visual, Signal.TEXT_ATTENTION: text}
    sample = VisualTokens(
        torch.zeros(3, 1), Layout((Tile(1, 3),)), torch.arange(3), signals=signals
    )
    method: Any = registry.build("fitprune")
    expected = torch.tensor([0.9 / 3 * 0.1, 0.9 / 3 * 0.3, 0.1 / 3 * 0.4])
    torch.testing.assert_close(method.score(sample), expected)
    assert method.prune(sample, Stage(llm(1), 1)).index.tolist() == [1]


def test_the_tables_are_the_published_ones() -> None:
    stages = registry.build("fitprune").plan(None, 576, 32)
    kept = [stage.keep for stage in stages[:4]]
    assert kept == [562, 529, 440, 404]
    assert (str(stages[-1].site), stages[-1].keep) == ("llm:29", 127)
    harder = registry.build("fitprune", {"reduction": 80}).plan(None, 576, 32)
    assert (harder[0].keep, harder[-1].keep) == (448, 62)


def test_other_images_and_depths_are_served() -> None:
    method = registry.build("fitprune")
    assert method.plan(None, 1152, 32)[-1].keep == 254
    assert [str(stage.site) for stage in method.plan(Budget(0.5), 100, 4)] == [
        "llm:1",
        "llm:2",
        "llm:3",
    ]
