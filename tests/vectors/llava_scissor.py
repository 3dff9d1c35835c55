"""LLaVA-Scissor's vectors: frames, and the threshold of the graph."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prunebench import Stage
from prunebench.testing.case import Case
from prunebench.testing.vectors import Vector


def cases(method: Any, vector: Vector) -> Iterator[Case]:
    """As many rows as there are components."""
    tokens = vector.tokens()
    pruner = method(threshold=vector.meta["tau"])
    yield Case(pruner, (Stage(pruner.site(), len(tokens)),), tokens)
