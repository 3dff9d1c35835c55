"""EADP's vectors: features, and CLIP's embeddings of patches, texts and their words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from prunebench import Signal, Stage, Tile
from prunebench.testing.case import Case
from prunebench.testing.vectors import Vector


def cases(method: Any, vector: Vector) -> Iterator[Case]:
    """Tiles are those of one image; what truncated quotas lose is not asked for."""
    meta, tensors = vector.meta, vector.tensors
    rows, columns = tensors["grid"].tolist()
    count = int(meta.get("tiles") or 1)
    kinds = ["thumbnail", *["crop"] * (count - 1)] if count > 1 else ["image"]
    tokens = vector.tokens([Tile(rows, columns, kind) for kind in kinds])
    pruner = method(alpha=meta["alpha"], beta=meta["beta"], truncated=meta["budget"])
    signals = {
        Signal.CLIP_PATCHES: tensors["clip_image_embeds"].flatten(0, -2),
        Signal.CLIP_TEXT: tensors["clip_text_embeds"],
        Signal.CLIP_TEXT_TOKENS: tensors["clip_text_tokens"],
    }
    stage = Stage(pruner.site(), int(meta["expected_count"]))
    yield Case(pruner, (stage,), replace(tokens, signals=signals))
