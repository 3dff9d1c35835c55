"""Every method: one answer that can be checked by hand, and the conformance checks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from prunebench import (
    INPUT,
    PIXELS,
    Budget,
    BudgetError,
    Layout,
    Pruner,
    Signal,
    Stage,
    Tile,
    VisualTokens,
    alive,
    llm,
    registry,
)
from prunebench.testing import check_pruner, tokens, walk


def order(pruner: Pruner, sample: VisualTokens, keep: int) -> list[int]:
    return pruner.prune(sample, Stage(INPUT, keep)).index.tolist()


def sample(features: Any, rows: int = 1, signals: Any = None) -> VisualTokens:
    rows_of_tokens = torch.as_tensor(features, dtype=torch.float32)
    layout = Layout((Tile(rows, len(rows_of_tokens) // rows),))
    return VisualTokens(rows_of_tokens, layout, torch.arange(len(layout)), signals=signals or {})


def test_none_keeps_all_whatever_the_budget() -> None:
    pruner = registry.build("none")
    stages = pruner.plan(Budget(1), 6, 4)
    assert stages == (Stage(INPUT, 6),)
    assert order(pruner, tokens(rows=2, columns=3), 6) == [0, 1, 2, 3, 4, 5]


def test_random_depends_on_its_seed_and_the_sample_alone() -> None:
    def kept(seed: int, of_sample: int) -> list[int]:
        return order(registry.build("random", {"seed": seed}), tokens(seed=of_sample), 6)

    assert kept(0, 0) == kept(0, 0)
    assert (
        len({tuple(kept(a, b)) for a, b in [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (0, 2)]}) == 6
    )


def test_random_favours_no_token() -> None:
    pruner = registry.build("random")
    hits, image = torch.zeros(24), tokens()
    for seed in range(2000):
        hits[order(pruner, replace(image, seed=seed), 6)] += 1
    # 500 expected, standard deviation 19
    assert hits.min() > 410
    assert hits.max() < 590


def test_uniform_spreads_over_rows_and_columns() -> None:
    pruner = registry.build("uniform")
    assert order(pruner, tokens(rows=4, columns=4), 4) == [5, 7, 13, 15]
    assert order(pruner, tokens(rows=2, columns=3), 1) == [4]
    assert order(pruner, tokens(rows=4, columns=4, tiles=2), 2) == [10, 26]


def test_pool_averages_windows() -> None:
    keep = registry.build("pool").prune(
        sample([[0.0], [1], [2], [3], [4], [8]], rows=2), Stage(INPUT, 3)
    )
    # three windows of one column each: (0, 3), (1, 4), (2, 8)
    assert keep.index.tolist() == [3, 4, 5]
    assert keep.features is not None
    assert keep.features.tolist() == [[1.5], [2.5], [5.0]]


def test_pool_leaves_newlines_out_of_the_mean() -> None:
    layout = Layout((Tile(2, 2, newlines=True),))
    features = torch.tensor([[1.0], [3], [100], [5], [7], [100]])
    keep = registry.build("pool").prune(
        VisualTokens(features, layout, torch.arange(6)), Stage(INPUT, 1)
    )
    assert keep.features is not None
    assert keep.features.tolist() == [[4.0]]


@pytest.mark.parametrize("name", ["uniform", "pool"])
def test_grids_refuse_tiles_with_holes(name: str) -> None:
    whole = tokens(rows=2, columns=3)
    holed = VisualTokens(whole.features[1:], whole.layout, whole.index[1:])
    with pytest.raises(ValueError, match="5 of 6 visual tokens are alive"):
        registry.build(name).prune(holed, Stage(INPUT, 2))


@pytest.mark.parametrize(
    ("size", "budget", "expected"),
    [
        ((224, 224), 1.0, (224, 224)),
        ((230, 219), 1.0, (230, 219)),
        ((224, 224), 0.25, (112, 112)),
        ((224, 224), 17, (112, 112)),
        ((448, 224), 0.25, (224, 112)),
        ((224, 224), 0.1, (84, 56)),
        ((224, 224), 1, (28, 28)),
    ],
)
def test_resize_keeps_count_and_shape(
    size: tuple[int, int], budget: float, expected: tuple[int, int]
) -> None:
    pruner = registry.build("resize")
    assert pruner.site() == PIXELS
    assert pruner.resize(size, 28, Budget(budget)) == expected


def test_resize_spends_most_of_its_budget() -> None:
    pruner = registry.build("resize")
    for columns in range(4, 40, 3):
        for rows in range(4, 40, 3):
            width, height = pruner.resize((columns * 28, rows * 28), 28, Budget(0.25))
            share = (width // 28) * (height // 28) / (columns * rows)
            assert 0.17 < share <= 0.25
            assert abs(torch.log(torch.tensor(width / height * rows / columns))) < 0.5


def test_resize_refuses_budgets_it_cannot_meet() -> None:
    pruner = registry.build("resize")
    with pytest.raises(BudgetError, match="no budget of its own"):
        pruner.resize((224, 224), 28, None)
    with pytest.raises(BudgetError, match="more than the 64 visual tokens"):
        pruner.resize((224, 224), 28, Budget(65))
    with pytest.raises(BudgetError, match="is no token of the 64"):
        pruner.resize((224, 224), 28, Budget(0.001))


def directions(*degrees: float) -> torch.Tensor:
    angle = torch.deg2rad(torch.tensor(degrees))
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def test_divprune_picks_the_farthest_next() -> None:
    # 180 lies farthest from its nearest other; then its opposite, then the middle, then the widest
    # gap
    features = directions(0, 10, 40, 90, 95, 180) * torch.tensor([1.0, 9, 2, 1, 5, 3])[:, None]
    assert order(registry.build("divprune"), sample(features), 4) == [5, 0, 3, 2]


def test_divprune_never_takes_a_token_twice() -> None:
    features = directions(0, 0, 60, 60, 120, 120)
    kept = order(registry.build("divprune"), sample(features), 5)
    assert len(set(kept)) == 5
    assert {k // 2 for k in kept[:3]} == {0, 1, 2}
    assert order(registry.build("divprune"), sample(torch.zeros(6, 2)), 3) == [0, 1, 2]


def test_fastv_averages_heads() -> None:
    # head maxima would choose 0, the mean chooses 3 and 1
    attention = torch.tensor([[0.4, 0.3, 0, 0.3, 0, 0], [0.0, 0.2, 0, 0.3, 0.1, 0]])
    pruner = registry.build("fastv")
    assert order(
        pruner, sample(torch.zeros(6, 1), signals={Signal.LAST_QUERY_ATTENTION: attention}), 2
    ) == [3, 1]


def test_ties_go_to_the_lower_index() -> None:
    attention = torch.full((2, 6), 0.1)
    pruner = registry.build("fastv")
    assert order(
        pruner, sample(torch.zeros(6, 1), signals={Signal.LAST_QUERY_ATTENTION: attention}), 3
    ) == [0, 1, 2]


def test_pyramiddrop_drops_in_stages() -> None:
    attention = torch.tensor([[0.1, 0.2, 0.3, 0.0, 0.15, 0.05]])
    pruner = registry.build("pyramiddrop", {"layers": (1, 2), "ratios": (0.5, 0.34)})
    stages = pruner.plan(None, 6, 4)
    assert stages == (Stage(llm(1), 3), Stage(llm(2), 2))
    steps = walk(
        pruner, stages, sample(torch.zeros(6, 1), signals={Signal.NEXT_QUERY_ATTENTION: attention})
    )
    assert [step.order.tolist() for step in steps] == [[2, 1, 4], [2, 1]]


def test_pyramiddrop_plans_as_published() -> None:
    pruner = registry.build("pyramiddrop")
    stages = pruner.plan(None, 576, 32)
    assert stages == (Stage(llm(8), 288), Stage(llm(16), 144), Stage(llm(24), 72))
    assert sum(alive(stages, 576, 32)) / 32 == 270
    # a mean of 192 needs a geometric ratio of 0.253; 144 is spent before the first stage
    stages = pruner.plan(Budget(192), 576, 32)
    assert [stage.keep for stage in stages] == [146, 37, 9]
    assert sum(alive(stages, 576, 32)) / 32 == 192
    with pytest.raises(BudgetError, match="out of reach"):
        pruner.plan(Budget(128), 576, 32)


@pytest.mark.parametrize("layers", [(), (8, 8), (16, 8), (0,), (32,), (0.5, 0.51), (1.5,)])
def test_pyramiddrop_refuses_layers_that_do_not_rise(layers: tuple[float, ...]) -> None:
    with pytest.raises(BudgetError, match=r"pyramiddrop\.layers"):
        registry.build("pyramiddrop", {"layers": layers}).plan(Budget(0.5), 576, 32)


def test_pyramiddrop_wants_one_ratio_a_layer() -> None:
    with pytest.raises(BudgetError, match=r"pyramiddrop\.ratios"):
        registry.build("pyramiddrop", {"layers": (8, 16)}).plan(None, 576, 32)


def _conforming() -> list[Any]:
    """Every method; one in three is fast, for each also runs in the matrix of families."""
    return [
        pytest.param(name, marks=[pytest.mark.slow] * (place % 3 > 0))
        for place, name in enumerate(registry.names())
    ]


@pytest.mark.parametrize("name", _conforming())
def test_conforms(name: str) -> None:
    failed = {
        check.name: check.message for check in check_pruner(registry.build(name)) if not check.ok
    }
    if name == "none":
        # the one method that is to ignore budgets
        assert "the plan spends 24" in failed.pop("budget")
        assert "ignores the budget" in failed.pop("in a model")
    assert failed == {}


@pytest.mark.parametrize("name", registry.names())
def test_names_its_paper_or_is_a_baseline(name: str) -> None:
    baseline = name in {"none", "random", "uniform", "pool", "resize", "blind"}
    assert (registry.card(registry.get(name)).paper is None) == baseline
