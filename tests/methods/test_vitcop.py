"""ViTCoP: a quota by hand, the merged rows, and what a budget without a table gets."""

from __future__ import annotations

from typing import Any

import torch
from prunebench.methods.vitcop import shares

from prunebench import Budget, Layout, Signal, Stage, Tile, VisualTokens, llm, registry


def merge(keep: int, norms: list[float], component: list[int]) -> Any:
    """The shallow stage on tokens whose states are 1, 2, 4, 8, ..."""
    count = len(norms)
    keys = torch.tensor(norms)[None, :, None]
    sample = VisualTokens(
        2.0 ** torch.arange(count)[:, None],
        Layout((Tile(1, count),)),
        torch.arange(count),
        memo={"vitcop clusters": torch.tensor(component)},
        signals={Signal.KEYS: keys},
    )
    return registry.build("vitcop").prune(sample, Stage(llm(2), keep)).ascending()


def test_clusters_keep_their_smallest_norms_and_a_sum_of_the_rest() -> None:
    keep = merge(4, [3.0, 1, 2, 9, 5, 4], [0, 0, 0, 5, 5, 5])
    # one token of each stays, 1 and 5; the others are the middle one plus their mean
    assert keep.index.tolist() == [1, 2, 4, 5]
    assert keep.features[:, 0].tolist() == [2, 4 + 2.5, 16 + 12, 32]


def test_with_fewer_rows_than_clusters_the_smallest_sums_stay_apart() -> None:
    keep = merge(2, [1.0, 2, 3, 4], [0, 1, 2, 3])
    # cluster 0 is a row of itself twice, the other three are one
    assert keep.index.tolist() == [0, 2]
    torch.testing.assert_close(keep.features[:, 0], torch.tensor([2, 4 + 14 / 3]))


def test_shares_meet_the_count() -> None:
    sizes = torch.tensor([1, 2, 5, 9])
    for count in range(4, 18):
        quotas = shares(sizes, torch.tensor([3, 2, 1, 0]), count)
        assert int(quotas.sum()) == count - 4
        assert bool((quotas <= sizes - 1).all())


def test_own_stages_are_the_published_ones() -> None:
    method = registry.build("vitcop")
    kept = [stage.keep for stage in method.plan(None, 576, 32)]
    # .4 of the tokens; (32 / .4 * 2 / 9 - 2) / 22 of these; a fifth
    assert kept == [230, 165, 33]
    assert [str(stage.site) for stage in method.plan(Budget(0.25), 576, 4)] == [
        "input",
        "llm:1",
        "llm:3",
    ]
