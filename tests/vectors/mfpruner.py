"""MFPruner's vectors: CLS attention, features and CLIP's embeddings of one tile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from prunebench import Signal, Stage
from prunebench.testing.case import Case
from prunebench.testing.vectors import Vector


def cases(method: Any, vector: Vector) -> Iterator[Case]:
    """Attention is that of block 22."""
    pruner = method()
    signals = {
        Signal.CLS_ATTENTION: vector.cls_attention([22]),
        Signal.CLIP_PATCHES: vector.tensors["clip_image_embeds"],
        Signal.CLIP_TEXT: vector.tensors["clip_text_embeds"],
    }
    tokens = replace(vector.tokens(), signals=signals)
    yield Case(pruner, (Stage(pruner.site(), int(vector.meta["expected_count"])),), tokens)
