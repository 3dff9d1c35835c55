"""DivPrune's vectors: features, and the share of them that stays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prunebench import Stage
from prunebench.testing.case import Case
from prunebench.testing.vectors import Vector


def cases(method: Any, vector: Vector) -> Iterator[Case]:
    """The count is rounded as the official code rounds it, half to even."""
    pruner, tokens = method(), vector.tokens()
    count = round(len(tokens) * vector.meta["ratio"])
    yield Case(pruner, (Stage(pruner.site(), count),), tokens)
