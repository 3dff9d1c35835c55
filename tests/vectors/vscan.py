"""VScan's vectors: CLS attention of several blocks, for the stage at the input."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from prunebench import INPUT, Signal, Stage
from prunebench.testing.case import Case
from prunebench.testing.vectors import Vector


def cases(method: Any, vector: Vector) -> Iterator[Case]:
    """Where the windows do not share their half evenly fewer survive than the budget says."""
    meta = vector.meta
    blocks = [meta["local_layer"], meta["global_layer"]]
    pruner = method(local=blocks[0], window=meta["window"], official=True)
    attention = {Signal.CLS_ATTENTION: vector.cls_attention(blocks)}
    tokens = replace(vector.tokens(), signals=attention)
    yield Case(pruner, (Stage(INPUT, int(meta["budget"])),), tokens)
