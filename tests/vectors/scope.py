"""SCOPE's vectors: CLS attention and the encoder's features of one tile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from prunebench import Signal, Stage
from prunebench.testing.case import Case
from prunebench.testing.vectors import Vector


def cases(method: Any, vector: Vector) -> Iterator[Case]:
    """The block that the projector reads is the vector's `score_layer`."""
    meta = vector.meta
    pruner = method(alpha=meta["alpha"])
    signals = {
        Signal.CLS_ATTENTION: vector.cls_attention([meta["score_layer"]]),
        Signal.ENCODER_FEATURES: vector.tensors["encoder_features"][None],
    }
    tokens = replace(vector.tokens(), signals=signals)
    yield Case(pruner, (Stage(pruner.site(), int(meta["expected_count"])),), tokens)
