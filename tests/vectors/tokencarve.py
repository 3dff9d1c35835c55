"""TokenCarve's vectors: states of a whole prompt, and the last query's attention row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from prunebench import Signal, Stage
from prunebench.testing.case import Case
from prunebench.testing.vectors import Vector


def cases(method: Any, vector: Vector) -> Iterator[Case]:
    """Of `hidden_states` [n, D] the method sees the image."""
    meta = vector.meta
    count = int(meta["expected_count"])
    pruner = method(weight=meta["attention_weight"], ranked=meta["rank_count"] / count)
    tokens = replace(
        vector.tokens(),
        features=vector.tensors["hidden_states"][vector.image()],
        signals={Signal.LAST_QUERY_ATTENTION: vector.tensors["llm_attention"]},
    )
    yield Case(pruner, (Stage(pruner.site(), count, compact=True),), tokens)
