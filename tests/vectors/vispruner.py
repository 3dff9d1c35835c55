"""VisPruner's vectors: CLS attention and the encoder's features, of one tile or more."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from prunebench import Signal, Stage
from prunebench.testing.case import Case
from prunebench.testing.vectors import Vector


def cases(method: Any, vector: Vector) -> Iterator[Case]:
    """The budget is one of each tile."""
    meta = vector.meta
    pruner = method(important=meta["important_ratio"], step=meta["removed_per_iteration"])
    signals = {
        Signal.CLS_ATTENTION: vector.cls_attention([22]),
        Signal.ENCODER_FEATURES: vector.tensors["encoder_features"].flatten(0, -2)[None],
    }
    tokens = replace(vector.tokens(), signals=signals)
    yield Case(pruner, (Stage(pruner.site(), int(meta["expected_count"])),), tokens)
