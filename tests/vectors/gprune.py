"""G-Prune's vectors: features of one tile, or of a thumbnail and crops."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prunebench import Stage, Tile
from prunebench.testing.case import Case
from prunebench.testing.vectors import Vector


def cases(method: Any, vector: Vector) -> Iterator[Case]:
    """The budget is the vector's, for all graphs together."""
    meta = vector.meta
    pruner = method(
        similarity=meta["similarity"],
        temperature=meta["temperature"],
        iterations=meta["iterations"],
    )
    rows, columns = vector.tensors["grid"].tolist()
    kinds = ["thumbnail", *["crop"] * (meta["tiles"] - 1)]
    tokens = vector.tokens([Tile(rows, columns, kind) for kind in kinds])
    yield Case(pruner, (Stage(pruner.site(), int(meta["expected_count"])),), tokens)
