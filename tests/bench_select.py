"""DivPrune's selection where it hurts: 320 of 2880 tokens of width 4096, beside the matrix product
it rests on.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from prunebench import INPUT, Layout, Stage, Tile, VisualTokens
from prunebench.registry import build

TOKENS, KEEP, WIDTH = 2880, 320, 4096


@pytest.fixture(scope="module")
def tokens() -> VisualTokens:
    """Five tiles of 24 x 24, as LLaVA-NeXT makes them."""
    features = torch.randn(TOKENS, WIDTH, generator=torch.Generator().manual_seed(0))
    return VisualTokens(features, Layout((Tile(24, 24),) * 5), torch.arange(TOKENS))


def test_divprune_selection(benchmark: Any, tokens: VisualTokens) -> None:
    pruner = build("divprune")
    benchmark.group = "select"
    with torch.inference_mode():
        keep = benchmark.pedantic(
            lambda: pruner.prune(tokens, Stage(INPUT, KEEP)), rounds=5, warmup_rounds=1
        )
    benchmark.extra_info |= {
        "tokens": TOKENS,
        "keep": KEEP,
        "width": WIDTH,
        "threads": torch.get_num_threads(),
    }
    assert len(keep.index.unique()) == KEEP


def test_similarity_alone(benchmark: Any, tokens: VisualTokens) -> None:
    """The least that any method on pairwise similarity pays."""
    benchmark.group = "select"
    with torch.inference_mode():
        benchmark.pedantic(lambda: tokens.features @ tokens.features.T, rounds=5, warmup_rounds=1)
