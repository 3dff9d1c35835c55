"""ReDiPrune's vectors: the encoder's features of an image or frames, and word embeddings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from prunebench import Signal, Stage
from prunebench.testing.case import Case
from prunebench.testing.vectors import Vector


def cases(method: Any, vector: Vector) -> Iterator[Case]:
    """All text is behind the visual tokens."""
    meta, tensors, tokens = vector.meta, vector.tensors, vector.tokens()
    pruner = method(alpha=meta["alpha"], tau=meta["tau"])
    words = tensors["text_embeds"]
    signals = {
        Signal.ENCODER_FEATURES: tensors["encoder_features"].flatten(0, -2)[None],
        Signal.TEXT_FEATURES: words,
        Signal.TEXT_PLACES: len(tokens) + torch.arange(len(words)),
        Signal.VISUAL_PLACES: torch.arange(len(tokens)),
    }
    stage = Stage(pruner.site(), int(meta["expected_count"]))
    yield Case(pruner, (stage,), replace(tokens, signals=signals))
