"""EVS's vectors: frames, and the share of their tokens that leaves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prunebench import Stage
from prunebench.testing.case import Case
from prunebench.testing.vectors import Vector


def cases(method: Any, vector: Vector) -> Iterator[Case]:
    """The whole first frame at least."""
    pruner, tokens = method(), vector.tokens()
    size = len(tokens.tiles[0])
    count = max(size, int(len(tokens) * (1 - vector.meta["pruning_rate"])))
    yield Case(pruner, (Stage(pruner.site(), count),), tokens)
