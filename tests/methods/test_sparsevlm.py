"""SparseVLM: raters and clusters that one can check by hand, the published table, the exact
budget.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from prunebench import INPUT, Budget, Layout, Signal, Stage, Tile, VisualTokens, llm, registry
from prunebench.contract import walk


def run(keep: int, attention: torch.Tensor, features: torch.Tensor) -> Any:
    """The survivors behind one stage, of tokens along the first axis and text along both."""
    count = len(features)
    embeds = torch.zeros(count, 2)
    embeds[:, 0] = 3.0
    sample = VisualTokens(embeds, Layout((Tile(1, count),)), torch.arange(count))

    def observe(stage: int, _index: Any, rows: torch.Tensor) -> Any:
        if stage == 0:
            # what stands before the image is no rater, however much it draws the tokens
            text = torch.tensor([[9.0, 0], [1, 0], [0, 1], [0, 2]])
            return rows, {Signal.TEXT_FEATURES: text}
        return features, {Signal.TEXT_ATTENTION: attention}

    stages = (Stage(INPUT, count), Stage(llm(3), keep))
    return walk(registry.build("sparsevlm"), stages, sample, observe)[-1]


def test_raters_decide_and_the_rest_melts() -> None:
    # three text rows behind the image; the first is the rater
    attention = torch.zeros(1, 3, 12)
    attention[0, 0] = torch.linspace(0.12, 0.01, 12)
    attention[0, 1:] = torch.linspace(0.01, 0.12, 12)
    step = run(9, attention, torch.arange(12.0)[:, None].expand(12, 2).contiguous())
    # 8 stay; of 4 dropped ones int(1.2) + 1 = 2 are merged into one
    assert step.keep.index.tolist()[:8] == [0, 1, 2, 3, 4, 5, 6, 7]
    assert step.keep.features[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8.5]
    assert step.keep.order == "given"


@pytest.mark.parametrize("keep", [1, 2, 3, 7, 39, 40])
def test_meets_every_count(keep: int) -> None:
    draw = torch.Generator().manual_seed(keep)
    attention = torch.rand(2, 3, 40, generator=draw)
    step = run(keep, attention, torch.randn(40, 2, generator=draw))
    assert len(step.keep.index.unique()) == keep


def test_the_table_is_the_published_one() -> None:
    for name, rows in (("sparsevlm", (192, 128, 96, 64)), ("sparsevlm_plus", (192, 128, 96, 64))):
        for row in rows:
            method: Any = registry.build(name, {"tokens": row})
            alive, counts = 576, []
            stages = method.plan(None, 576, 32)
            assert [str(stage.site) for stage in stages] == ["input", "llm:3", "llm:7", "llm:16"]
            for stage in stages[1:]:
                counts.append(method.kept(alive, stage.keep))
                alive = stage.keep
            assert tuple(counts) == method.table[row]


def test_other_depths_and_budgets_are_served() -> None:
    method = registry.build("sparsevlm")
    assert [str(stage.site) for stage in method.plan(Budget(0.5), 100, 28)] == [
        "input",
        "llm:3",
        "llm:6",
        "llm:14",
    ]
    with pytest.raises(registry.RegistryError, match="100; the table has"):
        registry.build("sparsevlm", {"tokens": 100})
