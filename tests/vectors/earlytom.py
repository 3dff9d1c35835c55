"""EarlyTom's vectors: frames behind the merging, the segments they came from, and attention."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from prunebench import Signal, Stage
from prunebench.testing.case import Case
from prunebench.testing.vectors import Vector


def cases(method: Any, vector: Vector) -> Iterator[Case]:
    """The ratio is that of the frames before the merging."""
    meta, tensors = vector.meta, vector.tensors
    first, last = tensors["segments"].unbind(1)
    lengths = (last - first + 1).tolist()
    pruner = method(ratio=meta["effective_ratio"], lengths=tuple(lengths))
    received = tensors["received_attention"].flatten()[None, None]
    tokens = replace(vector.tokens(), signals={Signal.RECEIVED_ATTENTION: received})
    yield Case(pruner, (Stage(pruner.site(), int(meta["expected_count"])),), tokens)
