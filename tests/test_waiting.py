"""Waiting: how often the engine asks what a tensor holds, for at each time a GPU is waited for."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import SIZES, picture
from torch.overrides import TorchFunctionMode

from prunebench import prune
from prunebench.testbed.tiny_qwen import build_model

ASKING = frozenset(
    {"item", "tolist", "cpu", "numpy", "nonzero", "unique", "__bool__", "__int__", "__float__"}
    | {"__index__", "equal", "allclose", "masked_select"}
)
"""Functions that give Python, or the CPU, what a tensor holds."""

METHODS = ["fastv", "divprune", "pyramiddrop", "none"]

MOST = 10
"""What a prefill with one stage and one sample may wait for. FastV waits seven times: for the ids
(to draw by, to lay out, to find the places of images), for grids and mask before the prefill
begins, for the stage's answer, and for whether all numbers were numbers.
"""

WAIT = "called a synchronizing CUDA operation"
"""How torch says that a GPU was waited for."""


class Asking(TorchFunctionMode):
    """Counts the calls of such functions."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.count += getattr(function, "__name__", "") in ASKING
        return function(*args, **(kwargs or {}))


@contextmanager
def asked() -> Iterator[Callable[[], int]]:
    with Asking() as mode:
        yield lambda: mode.count


@contextmanager
def waited() -> Iterator[Callable[[], int]]:
    """The same on a GPU, by its own word."""
    with warnings.catch_warnings():
        # the first time in a process torch warns of the mode itself
        warnings.simplefilter("ignore")
        torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield lambda: waits(caught)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def waits(caught: list[warnings.WarningMessage]) -> int:
    """How many of the warnings are of a wait."""
    return sum(WAIT in str(one.message) for one in caught)


def of_engine(
    counting: Callable[[], Any], layers: int, method: str, inputs: dict[str, Any], device: str
) -> int:
    """How often a prefill asks on the engine's account: with it, less without it."""
    model = build_model(replace(SIZES, layers=layers), 0).eval().to(device)
    inputs = {name: value.to(device) for name, value in inputs.items()}
    budget = 1.0 if method == "none" else 0.9
    sessions: list[Callable[[], Any]] = [nullcontext, lambda: prune(model, method, budget)]
    counts: list[int] = []
    for session in sessions:
        with session(), torch.inference_mode():
            model(**inputs)  # what is made at the first call is no prefill's
            with counting() as count:
                model(**inputs)
                counts.append(count())
    return counts[1] - counts[0]


@pytest.fixture
def inputs(inputs_of: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    return inputs_of(([picture(112, 112)], "color of 5"))


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_asked_layer_by_layer(inputs: dict[str, Any], method: str) -> None:
    shallow = of_engine(asked, 4, method, inputs, "cpu")
    assert shallow == of_engine(asked, 12, method, inputs, "cpu")
    assert shallow > 0, "the count must be able to see"


def test_waits_alone_are_counted() -> None:
    """Not the notice with which torch begins, which speaks of synchronizing, too."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.warn(f"{WAIT} (Triggered internally at CUDAFunctions.cpp:151.)", stacklevel=1)
        warnings.warn(
            "Synchronization debug mode is a prototype feature and does not yet detect all "
            "synchronizing operations",
            stacklevel=1,
        )
        warnings.warn("something else", stacklevel=1)
        warnings.warn(WAIT, stacklevel=1)
    assert waits(caught) == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU to wait for")
@pytest.mark.parametrize("method", METHODS)
def test_a_gpu_is_waited_for_a_few_times_and_not_layer_by_layer(
    inputs: dict[str, Any], method: str
) -> None:
    shallow = of_engine(waited, 4, method, inputs, "cuda")
    assert shallow == of_engine(waited, 12, method, inputs, "cuda")
    stages = 3 if method == "pyramiddrop" else 1
    assert shallow <= MOST + stages - 1
