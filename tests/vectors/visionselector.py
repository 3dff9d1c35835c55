"""VisionSelector's vectors: features, and a scorer with random weights under the released names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prunebench import Stage
from prunebench.testing.case import Case
from prunebench.testing.vectors import Vector

PREFIX = "selector."


def cases(method: Any, vector: Vector) -> Iterator[Case]:
    """The scorer's width is the features', its hidden one the vector's."""
    tokens = vector.tokens()
    sizes = {"width": tokens.features.shape[1], "hidden": vector.meta["hidden"]}
    module = method.build(sizes)
    state = {}
    for name, tensor in vector.tensors.items():
        if name.startswith(PREFIX):
            state[name.removeprefix(PREFIX)] = tensor
    module.load_state_dict(state)
    pruner = method(module=module.eval().requires_grad_(False))
    yield Case(pruner, (Stage(pruner.site(), int(vector.meta["expected_count"])),), tokens)
