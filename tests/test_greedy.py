"""Greedy searches take what their definitions say, worked out anew at every step."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from prunebench import (
    ProductRows,
    gram,
    greedy_apart,
    greedy_map,
    greedy_marginal,
    leaders,
)

COUNT = 12
TOKENS = (40, 400)
"""So few that all products are made at once, and so many that rows are as they are asked for."""


def directions(tokens: int, *, tied: bool) -> Tensor:
    """[tokens, 16] of length 1; with ties every third is the one before it."""
    draw = torch.Generator().manual_seed(tokens)
    unit = normalize(torch.randn(tokens, 16, generator=draw), dim=-1)
    if tied:
        unit[1::3] = unit[0::3][: len(unit[1::3])]
    return unit


@pytest.mark.parametrize("tied", [False, True])
def test_apart_takes_the_token_least_like_those_before(tied: bool) -> None:
    similarity = gram(directions(40, tied=tied)).double()
    others = similarity.clone().fill_diagonal_(-torch.inf)
    picks = [int(others.amax(0).argmin())]
    while len(picks) < COUNT:
        closest = similarity[picks].amax(0)
        closest[picks] = torch.inf
        picks.append(int(closest.argmin()))
    before = similarity.clone()
    assert greedy_apart(similarity, COUNT).tolist() == picks
    assert torch.equal(similarity, before)


def test_apart_takes_no_more_than_there_are() -> None:
    assert sorted(greedy_apart(gram(directions(5, tied=False)), 9).tolist()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("together", [1, 5])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    "tokens", [40, 400]
)  # all products at once, and rows as they are asked for
def test_marginal_weighs_the_bonus_against_likeness(tokens: int, tied: bool, together: int) -> None:
    unit = directions(tokens, tied=tied)
    similarity, bonus = gram(unit), torch.linspace(0, 1, tokens).sin()
    picks: list[int] = []
    while len(picks) < COUNT:
        values = bonus - 0.3 * similarity[picks].amax(0) if picks else bonus.clone()
        values[picks] = -torch.inf
        ranked = values.sort(descending=True, stable=True).indices
        picks += ranked[: min(together, COUNT - len(picks))].tolist()
    rows = ProductRows(unit, COUNT)
    assert greedy_marginal(bonus, rows, COUNT, 0.3, together).tolist() == picks


@pytest.mark.parametrize("tokens", TOKENS)
def test_map_takes_what_makes_the_largest_determinant(tokens: int) -> None:
    weights = torch.linspace(1, 2, tokens).cos().abs() + 0.5
    vectors = weights[:, None] * directions(tokens, tied=True)
    kernel = vectors.double() @ vectors.double().T
    picks: list[int] = []
    while len(picks) < COUNT:
        volumes = torch.full((tokens,), -torch.inf, dtype=torch.float64)
        for token in set(range(tokens)) - set(picks):
            places = [*picks, token]
            volumes[token] = kernel[places][:, places].det()
        picks.append(int(volumes.argmax()))
    rows = ProductRows(vectors, COUNT)
    assert greedy_map(rows.squares, rows, COUNT).tolist() == picks


def test_leaders_are_near_no_leader_before_them() -> None:
    is_near = gram(directions(60, tied=True)) > 0.3
    expected: list[int] = []
    for point in range(60):
        if not any(is_near[leader, point] for leader in expected):
            expected.append(point)
    assert leaders(is_near).nonzero()[:, 0].tolist() == expected
    assert leaders(torch.zeros(3, 3, dtype=torch.bool)).all()
