"""FastVID's vectors: the file for Qwen2.5-VL, and that for LLaVA-OneVision."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from prunebench import Signal, Stage
from prunebench.testing.case import Case
from prunebench.testing.vectors import Vector

SETS = ("fastvid", "fastvid_ov")


def cases(method: Any, vector: Vector) -> Iterator[Case]:
    """What the pooling head says of a frame stands where a CLS token's features do."""
    meta = vector.meta
    received = vector.tensors["received_attention"].flatten()[None, None]
    signals = {Signal.RECEIVED_ATTENTION: received}
    if vector.name.startswith("fastvid_ov"):
        pruner = method(
            form="onevision",
            frames="cls",
            segments=meta["c"],
            threshold=meta["tau"],
            context=meta["d"],
            step=meta["p"],
            beta=meta["beta"],
            ratio=meta["ratio"],
        )
        signals[Signal.CLS_FEATURES] = vector.tensors["frame_features"][None]
    else:
        pruner = method(
            segments=meta["segments_c"],
            threshold=meta["segment_tau"],
            ignore=meta["segment_ignore"],
            context=meta["context_share"],
            step=meta["anchor_step"],
            beta=meta["beta"],
            ratio=meta["retention_ratio"],
        )
    tokens = replace(vector.tokens(), signals=signals)
    stage = Stage(pruner.site(), int(meta["expected_count"]))
    yield Case(pruner, (stage,), tokens)
