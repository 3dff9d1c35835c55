"""VLM-Pruner's vectors: states and keys of a whole prompt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from prunebench import Signal, Stage
from prunebench.testing.case import Case
from prunebench.testing.vectors import Vector


def cases(method: Any, vector: Vector) -> Iterator[Case]:
    """Of states [n, D] and keys [H, n, d] the method sees the image."""
    meta, image = vector.meta, vector.image()
    pruner = method(
        pivots=meta["pivots"],
        threshold=meta["threshold"],
        batch=meta["token_batch"],
        official=True,
    )
    tokens = replace(
        vector.tokens(),
        features=vector.tensors["hidden_states"][image],
        signals={Signal.KEYS: vector.tensors["keys"][:, image]},
    )
    count = round(len(tokens) * (1 - meta["reduction_ratio"]))
    yield Case(pruner, (Stage(pruner.site(), count),), tokens)
