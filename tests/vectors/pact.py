"""PACT's vectors: states, queries and keys of a prompt up to its last visual row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from prunebench import Signal, Stage
from prunebench.testing.case import Case
from prunebench.testing.vectors import Vector


def cases(method: Any, vector: Vector) -> Iterator[Case]:
    """Share and cutoff decide, so that the stage allows everything."""
    meta, tensors, image = vector.meta, vector.tensors, vector.image()
    pruner = method(
        layer=meta["layer_for_reduction"],
        share=meta["keep_share"],
        cutoff=meta["cutoff"],
        reach=meta["coef_pruned"],
    )
    tokens = replace(
        vector.tokens(),
        features=tensors["hidden_states"][image],
        signals={
            Signal.NEXT_QUERIES: tensors["queries_unrotated"],
            Signal.NEXT_KEYS: tensors["keys_unrotated"],
            Signal.NEXT_ROTATED_KEYS: tensors["keys"],
            Signal.VISUAL_PLACES: image,
        },
    )
    yield Case(pruner, (Stage(pruner.site(), len(tokens)),), tokens)
