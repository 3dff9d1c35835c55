"""HIVTP's vectors: attention received in many blocks, over all queries; no budget."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from prunebench import Signal, Stage
from prunebench.testing.case import Case
from prunebench.testing.vectors import Vector


def cases(method: Any, vector: Vector) -> Iterator[Case]:
    """Nothing caps what official code keeps."""
    meta = vector.meta
    pruner = method(first=meta["first_layer"], blocks=meta["layers_used"], official=True)
    layers = meta["received_attention_layers"]
    (blocks,) = pruner.reads.blocks.values()
    rows = vector.tensors["received_attention"][[layers.index(block) for block in blocks]]
    tokens = replace(vector.tokens(), signals={Signal.RECEIVED_ATTENTION: rows[:, None]})
    yield Case(pruner, (Stage(pruner.site(), len(tokens)),), tokens)
