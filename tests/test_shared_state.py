"""What all methods share is compared behind every step, by quick ways that miss nothing."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn

from prunebench import budget
from prunebench.border.guard import Guard


class Small(nn.Module):
    """A model with weights, a lasting buffer and a passing one."""

    lasting: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.register_buffer("lasting", torch.arange(3.0))
        self.register_buffer("passing", torch.zeros(2), persistent=False)


def test_nothing_is_named_where_nothing_changed() -> None:
    guard = Guard(Small())
    assert [guard.changes() for _ in range(3)] == [[], [], []]


def test_a_write_behind_torchs_back_is_seen_at_every_step() -> None:
    model = Small()
    guard = Guard(model)
    copy = deepcopy(model)
    for _ in range(2):
        assert guard.changes() == []
        model.inner.weight.data[0, 0] += 1
        assert guard.changes() == ["the model's weights (inner.weight)"]
        guard.restore(lambda: copy)


def test_other_storage_under_the_same_parameter_is_seen() -> None:
    model = Small()
    guard = Guard(model)
    model.inner.weight.data = torch.ones(3, 3)
    assert guard.changes() == ["the model's weights (inner.weight)"]


def test_a_buffer_that_takes_the_place_of_another_is_watched_from_then_on() -> None:
    model = Small()
    guard = Guard(model)
    first = model.lasting
    model.lasting = first.clone()
    # the same numbers, and never written to: no harm is done
    assert guard.changes() == []
    model.lasting.data[0] = 5
    assert guard.changes() == ["the model's weights (lasting)"]
    model.lasting = first
    assert guard.changes() == []
    first.data[0] = 5
    assert guard.changes() == ["the model's weights (lasting)"]


def test_a_buffer_that_passes_may_change() -> None:
    model = Small()
    guard = Guard(model)
    model.passing = torch.ones(2)
    assert guard.changes() == []
    model.inner.weight.data[0, 0] += 1
    assert guard.changes() == ["the model's weights (inner.weight)"]


def test_a_function_is_seen_whatever_else_its_module_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # what cannot say whether it equals another stands in front of the class
    monkeypatch.setattr(budget, "table", torch.ones(2), raising=False)
    guard = Guard()
    monkeypatch.setattr(budget, "table", torch.ones(2))
    stock: Any = vars(budget.Budget)["tokens"]
    monkeypatch.setattr(budget.Budget, "tokens", lambda *values: stock(*values))
    assert guard.changes() == ["prunebench.budget.Budget.tokens"]
    guard.restore()
    assert vars(budget.Budget)["tokens"] is stock
    assert guard.changes() == []


def test_what_is_no_function_may_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "count", 1, raising=False)
    guard = Guard()
    for count in (2, 3):
        monkeypatch.setattr(budget, "count", count)
        assert guard.changes() == []


def test_what_a_model_notes_of_a_prompt_costs_no_lookup_of_its_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Models keep such things as attributes, anew at every prompt."""
    model = Small()
    guard = Guard(model)
    lookups = []

    def looked_up(*_args: Any, **_kwargs: Any) -> dict[str, Any]:
        lookups.append("state_dict")
        return {}

    monkeypatch.setattr(Small, "state_dict", looked_up)
    for number in range(3):
        vars(model)["note"] = torch.full((1,), number)
        assert guard.changes() == []
    assert not lookups
