"""HiPrune's vectors: attention received in several blocks of CLIP, over all its queries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from prunebench import Signal, Stage
from prunebench.testing.case import Case
from prunebench.testing.vectors import Vector


def cases(method: Any, vector: Vector) -> Iterator[Case]:
    """The middle block is counted from 1, the deep one is the last."""
    meta = vector.meta
    middle = meta["object_layer"] - 1
    pruner = method(alpha=meta["alpha"], middle=middle, official=True)
    layers = meta["received_attention_layers"]
    rows = vector.tensors["received_attention"][[layers.index(middle), -1]]
    tokens = replace(vector.tokens(), signals={Signal.RECEIVED_ATTENTION: rows[:, None]})
    yield Case(pruner, (Stage(pruner.site(), int(meta["expected_count"])),), tokens)
