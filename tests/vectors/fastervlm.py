"""FasterVLM's vectors: CLS attention of several blocks, of one tile or more."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from prunebench import Signal, Stage
from prunebench.testing.case import Case
from prunebench.testing.vectors import Vector


def cases(method: Any, vector: Vector) -> Iterator[Case]:
    """The block that the projector reads is the vector's `score_layer`."""
    pruner = method()
    attention = vector.cls_attention([vector.meta["score_layer"]])
    tokens = replace(vector.tokens(), signals={Signal.CLS_ATTENTION: attention})
    stage = Stage(pruner.site(), int(vector.meta["expected_count"]))
    yield Case(pruner, (stage,), tokens)
