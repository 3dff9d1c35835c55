"""DyCoke's vectors: frames, and what is pruned of every second one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prunebench import Stage
from prunebench.testing.case import Case
from prunebench.testing.vectors import Vector


def cases(method: Any, vector: Vector) -> Iterator[Case]:
    """The count follows from the frames and the rate; the official code loses a last odd frame."""
    pruner = method(official=True)
    stage = Stage(pruner.site(), int(vector.meta["expected_count"]))
    yield Case(pruner, (stage,), vector.tokens())
