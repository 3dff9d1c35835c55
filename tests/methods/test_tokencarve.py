"""TokenCarve: ranks and a merge by hand, and the decomposition in both shapes."""

from __future__ import annotations

import pytest
import torch
from prunebench.methods.tokencarve import information

from prunebench import Layout, Signal, Stage, Tile, VisualTokens, llm, registry


@pytest.mark.parametrize("shape", [(5, 9), (9, 5)])
def test_information_is_that_of_the_decomposition(shape: tuple[int, int]) -> None:
    features = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    left, values, _ = torch.linalg.svd(features.double(), full_matrices=False)
    torch.testing.assert_close(information(features), left.abs() @ values)


def test_the_lower_half_melts_into_the_upper() -> None:
    # by attention alone 3, 2, 1, 0 are ranked; 1 resembles 3, and 0 resembles nobody
    features = torch.tensor([[0.0, 0, 1], [3, 0, 0], [0, 1, 0], [1, 0, 0], [0, 9, 9]])
    attention = torch.tensor([[0.2, 0.3, 0.4, 0.5, 0.1]])
    sample = VisualTokens(
        features,
        Layout((Tile(1, 5),)),
        torch.arange(5),
        signals={Signal.LAST_QUERY_ATTENTION: attention},
    )
    method = registry.build("tokencarve", {"weight": 1.0, "ranked": 1.34})
    keep = method.prune(sample, Stage(llm(2), 3)).ascending()
    assert keep.index.tolist() == [0, 2, 3]
    assert keep.features is not None
    assert keep.features.tolist() == [[0, 0, 1], [0, 1, 0], [2, 0, 0]]


def test_stages_cut_the_caches_before() -> None:
    from prunebench import Budget

    (stage,) = registry.build("tokencarve").plan(Budget(0.5), 100, 8)
    assert stage.compact
