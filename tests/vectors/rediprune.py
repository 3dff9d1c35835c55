"""ReDiPrune's vectors: the encoder's features of an image or frames, and the text behind them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from prunebench import Signal, Stage, Tile
from prunebench.testing.case import Case
from prunebench.testing.vectors import Vector


def cases(method: Any, vector: Vector) -> Iterator[Case]:
    """All of the text stands behind the image."""
    meta, tensors = vector.meta, vector.tensors
    pruner = method(alpha=meta["alpha"], tau=meta["tau"])
    rows, columns = tensors["grid"].tolist()
    frames = range(int(meta.get("frames", 1)))
    tokens = vector.tokens([Tile(rows, columns, "frame", frame=frame) for frame in frames])
    text, count = tensors["text_embeds"], len(tokens)
    signals = {
        Signal.ENCODER_FEATURES: tensors["encoder_features"].flatten(0, -2)[None],
        Signal.TEXT_FEATURES: text,
        Signal.VISUAL_PLACES: torch.arange(count),
        Signal.TEXT_PLACES: count + torch.arange(len(text)),
    }
    stage = Stage(pruner.site(), int(meta["expected_count"]))
    yield Case(pruner, (stage,), replace(tokens, signals=signals))
