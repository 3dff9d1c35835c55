"""VisionSelector's vectors: tokens, and a scorer of random weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from prunebench import Stage
from prunebench.testing.case import Case
from prunebench.testing.vectors import Vector


def cases(method: Any, vector: Vector) -> Iterator[Case]:
    """The weights are those of the released scorer, without its name before theirs."""
    prefix = "selector."
    state = {}
    for name, value in vector.tensors.items():
        if name.startswith(prefix):
            state[name.removeprefix(prefix)] = value
    hidden, width = state["q_proj.weight"].shape
    module = method.build({"width": width, "hidden": hidden})
    module.load_state_dict(state)
    pruner = replace(method(), module=module.requires_grad_(False))
    stage = Stage(pruner.site(), int(vector.meta["expected_count"]))
    yield Case(pruner, (stage,), vector.tokens())
