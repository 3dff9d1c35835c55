"""V2Drop: the published stages, and who moved farthest."""

from __future__ import annotations

import torch

from prunebench import Budget, Layout, Signal, Stage, Tile, VisualTokens, llm, registry


def test_keeps_what_moved_farthest() -> None:
    earlier = torch.tensor([[9.0, 9], [0, 0], [1, 1]])
    now = torch.tensor([[9.0, 9], [3, 4], [1, 5]])
    signals = {Signal.EARLIER_FEATURES: earlier}
    sample = VisualTokens(now, Layout((Tile(1, 3),)), torch.arange(3), signals=signals)
    keep = registry.build("v2drop").prune(sample, Stage(llm(3), 2))
    assert keep.index.tolist() == [1, 2]


def test_own_stages_end_with_one_token() -> None:
    stages = registry.build("v2drop").plan(None, 576, 32)
    assert [(str(stage.site), stage.keep) for stage in stages] == [
        ("llm:3", 288),
        ("llm:17", 144),
        ("llm:22", 1),
    ]


def test_a_budget_of_everything_drops_nothing() -> None:
    stages = registry.build("v2drop").plan(Budget(1.0), 576, 32)
    assert {stage.keep for stage in stages} == {576}
