"""IDPruner's vectors: features, and what a scorer made of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from prunebench import Signal, Stage
from prunebench.testing.case import Case
from prunebench.testing.vectors import Vector


def cases(method: Any, vector: Vector) -> Iterator[Case]:
    """The scores, of which only their order and extent count, are shown as attention."""
    meta = vector.meta
    pruner = method(weights="none", balance=meta["mmr_lambda"], at_once=meta["parallel_k"])
    signals = {Signal.CLS_ATTENTION: vector.tensors["scores"][None, None]}
    tokens = replace(vector.tokens(), signals=signals)
    yield Case(pruner, (Stage(pruner.site(), int(meta["expected_count"])),), tokens)
