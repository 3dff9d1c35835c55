"""EADP's vectors: features and CLIP's embeddings of patches, texts and all their tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from prunebench import Signal, Stage, Tile
from prunebench.testing.case import Case
from prunebench.testing.vectors import Vector


def cases(method: Any, vector: Vector) -> Iterator[Case]:
    """Several tiles are crops of one image, whose parts of the budget are rounded down."""
    meta, tensors = vector.meta, vector.tensors
    pruner = method(alpha=meta["alpha"], beta=meta["beta"], official=True)
    rows, columns = tensors["grid"].tolist()
    signals = {
        Signal.CLIP_PATCHES: tensors["clip_image_embeds"].flatten(0, -2),
        Signal.CLIP_TEXT: tensors["clip_text_embeds"],
        Signal.CLIP_TEXT_TOKENS: tensors["clip_text_tokens"],
    }
    tiles = [Tile(rows, columns, "crop")] * int(meta.get("tiles", 1))
    tokens = replace(vector.tokens(tiles), signals=signals)
    yield Case(pruner, (Stage(pruner.site(), int(meta["budget"])),), tokens)
