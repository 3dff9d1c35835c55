"""Elsewhere: a device that no machine lacks refuses what a GPU refuses, and computes the rest."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from prunebench.testing.elsewhere import OtherDevice, elsewhere

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")

Expression = Callable[[Tensor], Tensor]

ALLOWED: list[Expression] = [
    lambda x: x + 1,
    lambda x: x * torch.tensor(2.0),
    lambda x: x[torch.tensor([2, 0])],
    lambda x: x[torch.tensor([True, False, True, False])],
    lambda x: x[[3, 1]] + x[:2, [2, 1, 0]],
    lambda x: x[[]],
    lambda x: x + torch.ones(3, device=x.device),
    lambda x: x.index_select(0, torch.tensor([1, 3], device=x.device)),
    lambda x: torch.cat([x, torch.ones(1, 3).to(x.device)]),
    lambda x: x[:, 0] @ x,
    lambda x: torch.ones(4, device=x.device) @ x,
    lambda x: torch.nn.functional.linear(x[0], x, x[:, 1]),
    lambda x: torch.zeros(4, 3, device=x.device).index_put_((torch.tensor([1]),), x[:1]),
    lambda x: x.new_tensor([[1.0, 2], [3, 4]]) @ x[:2],
    lambda x: x.cpu() + torch.ones(3),
    lambda x: torch.zeros(4, 3).copy_(x),
    lambda x: (x > 4).nonzero(),
    lambda x: x.clone().masked_fill_(x > 4, -torch.inf),
    lambda x: torch.where(x > 4, x, 0.0),
    lambda x: torch.tensor(x.tolist()) + x.sum().item(),
    lambda x: torch.linalg.svd(x).S,
    lambda x: x.sort(dim=0, descending=True, stable=True).indices,
]

REFUSED: list[Expression] = [
    lambda x: x + torch.ones(3),
    lambda x: x * torch.ones(1, 1),
    lambda x: x.index_select(0, torch.tensor([1, 3])),
    lambda x: torch.arange(4)[x[:, 0].long() % 4],
    lambda x: torch.cat([x, torch.ones(1, 3)]),
    lambda x: x.clone().index_put_((torch.tensor([1]),), torch.ones(1, 3)),
    lambda x: x.masked_fill(torch.ones(4, 3, dtype=torch.bool), 0.0),
    lambda x: torch.ones(2, 4) @ x,
    lambda x: torch.from_numpy(x.numpy()),
]


def values() -> Tensor:
    return torch.arange(12.0).reshape(4, 3)


@pytest.mark.parametrize("number", range(len(ALLOWED)))
def test_what_a_gpu_computes_is_computed(number: int) -> None:
    expected = ALLOWED[number](values())
    with elsewhere() as away:
        moved = away(values())
        result = ALLOWED[number](moved)
        assert result.shape == expected.shape
        assert torch.equal(result.cpu(), expected)
        assert torch.equal(moved.cpu(), values())


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_what_a_gpu_refuses_is_refused(number: int) -> None:
    assert REFUSED[number](values()) is not None
    with elsewhere() as away, pytest.raises(OtherDevice):
        REFUSED[number](away(values()))


def test_results_are_where_their_inputs_are() -> None:
    with elsewhere() as away:
        moved = away(values())
        assert moved.device.type != "cpu"
        for result in (moved + 1, moved[0], moved.new_zeros(2), torch.ones(2, device=moved.device)):
            assert result.device == moved.device
        assert moved.cpu().device.type == "cpu"
        assert torch.zeros(2).device.type == "cpu"


def test_changes_in_place_reach_all_views() -> None:
    with elsewhere() as away:
        moved = away(values())
        row = moved[1]
        row += 10
        moved[0] = 7
        assert moved.tolist() == [[7, 7, 7], [13, 14, 15], [6, 7, 8], [9, 10, 11]]


@needs_gpu
def test_a_real_gpu_agrees() -> None:
    for expression in ALLOWED:
        assert torch.equal(expression(values().cuda()).cpu(), expression(values()))
    for expression in REFUSED:
        with pytest.raises((RuntimeError, TypeError)):
            expression(values().cuda())
