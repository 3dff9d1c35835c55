"""IDPruner's vectors: features, and the scores that its scorer gave."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from prunebench import Signal, Stage
from prunebench.testing.case import Case
from prunebench.testing.vectors import Vector


def cases(method: Any, vector: Vector) -> Iterator[Case]:
    """The scores are shown as attention, which stands in for a scorer."""
    meta = vector.meta
    pruner = method(balance=meta["mmr_lambda"], together=meta["parallel_k"], weights="none")
    scores = vector.tensors["scores"][None, None]
    tokens = replace(vector.tokens(), signals={Signal.CLS_ATTENTION: scores})
    yield Case(pruner, (Stage(pruner.site(), int(meta["expected_count"])),), tokens)
