"""Budgets: one number means one thing, and a plan spends it."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

import pytest
import solver_oracle

from prunebench import (
    INPUT,
    PIXELS,
    Budget,
    BudgetError,
    Stage,
    alive,
    cached,
    late_layer,
    llm,
    share,
    solve,
    top,
    vision,
)
from prunebench.budget import Kind, spent
from prunebench.sites import Site


def test_the_fields_example() -> None:
    """FastV before layer 2 of 32 at a mean of 192 of 576 keeps 166; a mean of 32 is out of reach,
    36 are spent before.
    """
    assert solve(Budget(192), [llm(2)], 576, 32) == (Stage(llm(2), 166),)
    with pytest.raises(BudgetError, match=r"32 .*out of reach at llm:2.*still spends 36\.9"):
        solve(Budget(32), [llm(2)], 576, 32)


@pytest.mark.parametrize("kind", ["mean", "input", "kv"])
@pytest.mark.parametrize("layers", [4, 6, 28, 32])
@pytest.mark.parametrize("available", [64, 100, 144, 576])
@pytest.mark.parametrize("share_", [0.75, 0.5, 0.3])
def test_a_plan_spends_the_budget(kind: str, layers: int, available: int, share_: float) -> None:
    for sites in ([INPUT], [llm(1)], [llm(1), llm(2), llm(3)]):
        if kind == "input" and sites != [INPUT]:
            continue
        budget = Budget(share_, kind)  # type: ignore[arg-type]
        stages = solve(budget, sites, available, layers)
        cost = spent(
            budget.kind, alive(stages, available, layers), cached(stages, available, layers)
        )
        assert abs(cost - share_ * available) <= 0.5
        keeps = [s.keep for s in stages]
        assert keeps == sorted(keeps, reverse=True)
        assert keeps[-1] >= 1


def test_inside_the_llm_the_input_cannot_shrink() -> None:
    with pytest.raises(BudgetError, match="out of reach"):
        solve(Budget(0.5, "input"), [llm(2)], 100, 8)


def test_rounding_is_half_to_even() -> None:
    assert solve(Budget(0.098), [INPUT], 576, 32)[0].keep == 56
    assert [solve(Budget(0.5), [INPUT], n, 32)[0].keep for n in (5, 7, 9)] == [2, 4, 4]


def test_compaction_counts_in_the_cache_alone() -> None:
    stages = (Stage(llm(3), 10, compact=True),)
    assert alive(stages, 40, 4) == [40, 40, 40, 10]
    assert cached(stages, 40, 4) == [10, 10, 10, 10]
    assert solve(Budget(0.25, "kv"), [llm(3)], 40, 4, compact=True) == stages


def test_compaction_from_a_layer_on() -> None:
    stages = (Stage(llm(1), 20), Stage(llm(3), 10, compact_from=2))
    assert alive(stages, 40, 5) == [40, 20, 20, 10, 10]
    assert cached(stages, 40, 5) == [40, 20, 10, 10, 10]
    (stage,) = solve(Budget(0.5, "kv"), [llm(3)], 40, 5, compact_from=2)
    # two layers hold all 40, three what is kept: 80 + 3 k = 100
    assert (stage.keep, stage.compact_from) == (7, 2)
    assert Stage(llm(3), 10, compact=True).compacted_from == 0
    assert Stage(llm(3), 10).compacted_from is None


def test_a_method_may_be_left_with_no_token() -> None:
    """Half of the layers see 64 tokens and the others none."""
    assert solve(Budget(0.5), [llm(4)], 64, 8, fewest=0) == (Stage(llm(4), 0),)
    with pytest.raises(
        BudgetError, match=r"with a single token kept there the run still spends 32\.5"
    ):
        solve(Budget(0.5), [llm(4)], 64, 8)
    with pytest.raises(BudgetError, match="with no token kept there the run still spends 32"):
        solve(Budget(0.49), [llm(4)], 64, 8, fewest=0)
    assert solve(Budget(0.004), [INPUT], 64, 8, fewest=0) == (Stage(INPUT, 0),)
    assert solve(Budget(0.01), [INPUT], 64, 8, fewest=0) == (Stage(INPUT, 1),)


def test_all_of_it_is_all_of_it() -> None:
    for sites in ([INPUT], [llm(2)], [llm(1), llm(2)]):
        assert all(s.keep == 64 for s in solve(Budget(1.0), sites, 64, 6))


@pytest.mark.parametrize(
    "text", ["0", "-3", "0.0", "-0.5", "1.01", "nan", "inf", "many", "", "mean:", "tokens:5", "1e3"]
)
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(BudgetError, match=r"budget"):
        Budget.parse(text)


@pytest.mark.parametrize("kind", ["mean", "input", "kv"])
def test_plans_of_many_stages_spend_what_they_may(kind: Kind) -> None:
    """Within half a token, wherever the stages lie and however few tokens there are."""
    draw = random.Random(kind)
    for _ in range(150):
        available, layers = draw.choice([5, 12, 64, 576]), draw.choice([4, 28])
        sites = sorted(draw.sample([INPUT, *map(llm, range(1, layers))], draw.randint(1, 4)))
        budget = Budget(draw.uniform(0.02, 1.0), kind)
        try:
            stages = solve(budget, sites, available, layers, compact=draw.random() < 0.3)
        except BudgetError:
            continue
        cost = spent(kind, alive(stages, available, layers), cached(stages, available, layers))
        assert abs(cost - budget.tokens(available)) <= 0.5 + 1e-6, (
            budget,
            stages,
            available,
            layers,
        )
        counts = [stage.keep for stage in stages]
        assert counts == sorted(counts, reverse=True)
        assert 1 <= counts[-1] <= counts[0] <= available


@pytest.mark.parametrize("kind", ["mean", "input", "kv"])
def test_the_quick_search_finds_what_the_plain_one_finds(kind: Kind) -> None:
    """The same stages, or the same refusal, of single stages and of many, wherever they lie."""
    draw = random.Random(f"searches {kind}")
    solved = 0
    for _ in range(1200):
        layers = draw.choice([1, 2, 4, 6, 28])
        available = draw.choice([1, 2, 3, 7, 64, 100, 577])
        places = [PIXELS, vision(3), INPUT, *map(llm, range(1, layers + draw.randint(0, 1)))]
        sites = sorted(draw.sample(places, min(len(places), draw.randint(1, 5))))
        share_ = draw.choice([0.01, 0.1, 0.25, 0.5, 1.0, draw.random() or 0.5])
        budget = Budget(draw.choice([share_, draw.randint(1, available)]), kind)
        shares = draw.choice([None, partial(rising, len(sites))])
        arguments = budget, sites, available, layers, shares, draw.random() < 0.3
        expected = answer(solver_oracle.solve, *arguments)
        assert answer(solve, *arguments) == expected, arguments
        solved += not isinstance(expected, str)
    assert solved > 200


def rising(steps: int, t: float) -> list[float]:
    """Shares of another shape than the staircase."""
    return [t / (step + 1) for step in range(steps)]


def answer(search: Callable[..., tuple[Stage, ...]], *arguments: object) -> object:
    """The stages that a search gives, or what it says against the budget."""
    try:
        return search(*arguments)
    except BudgetError as error:
        return str(error)


def test_parsing() -> None:
    assert Budget.parse("0.25") == Budget(0.25)
    assert Budget.parse("kv:64") == Budget(64, "kv")
    assert Budget.parse(64) == Budget(64)
    assert str(Budget.parse("input:0.5")) == "input:0.5"
    with pytest.raises(BudgetError, match="65 asks for more than the 64"):
        Budget(65).tokens(64)


def test_a_site_knows_which_layers_lie_behind_it() -> None:
    assert [llm(2).exists_in(layers) for layers in (2, 3)] == [False, True]
    assert INPUT.exists_in(1)
    assert [llm(2).is_before(layer) for layer in (1, 2, 3)] == [False, True, True]
    assert INPUT.is_before(0)
    assert Site.parse("vision:3").is_before(0)


def test_late_layers_are_the_published_ones_and_as_deep_between() -> None:
    published = {28: 18, 32: 21, 36: 23, 40: 26}
    assert {layers: late_layer(layers) for layers in published} == published
    assert [late_layer(layers) for layers in (1, 2, 6, 24, 30)] == [0, 0, 3, 15, 19]


def test_sites_order_and_names() -> None:
    assert sorted([llm(2), INPUT, llm(1), Site.parse("vision:3")]) == [
        Site.parse("vision:3"),
        INPUT,
        llm(1),
        llm(2),
    ]
    assert [str(s) for s in (INPUT, llm(2))] == ["input", "llm:2"]
    for wrong in ("llm:0", "llm", "input:1", "vision", "decoder:3"):
        with pytest.raises(ValueError, match=r"site|llm:0"):
            Site.parse(wrong)


def test_top_is_stable_and_share_sums_up() -> None:
    import torch

    assert top(torch.tensor([1.0, 3.0, 3.0, 2.0]), 3).tolist() == [1, 2, 3]
    assert share(10, torch.tensor([1.0, 1.0, 1.0])) == [4, 3, 3]
    assert share(3, torch.tensor([0.0, 1.0])) == [0, 3]
    with pytest.raises(ValueError, match="cannot be shared"):
        share(3, torch.tensor([0.0, 0.0]))
