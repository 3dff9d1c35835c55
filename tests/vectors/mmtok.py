"""MMTok's vectors: projected tokens, the encoder's, and embeddings of the question's words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from prunebench import Signal, Stage, Tile
from prunebench.testing.case import Case
from prunebench.testing.vectors import Vector

INSIDE, OUTSIDE = (0.0, 0.0, 1.0, 1.0), (1.0, 0.0, 2.0, 1.0)


def cases(method: Any, vector: Vector) -> Iterator[Case]:
    """Tokens that may not be chosen are shown as grids of one token beside the image."""
    meta, tensors = vector.meta, vector.tensors
    pruner = method(
        alpha=meta["alpha"],
        text_temperature=meta["text_temperature"],
        image_temperature=meta["vision_temperature"],
        words="all",
        skip_padding="excluded" in tensors,
    )
    tiles = None
    if "excluded" in tensors:
        excluded = set(tensors["excluded"].tolist())
        tiles = []
        for place in range(len(tensors["features"])):
            tiles.append(Tile(1, 1, "crop", region=OUTSIDE if place in excluded else INSIDE))
    signals = {
        Signal.ENCODER_FEATURES: tensors["encoder_features"][None],
        Signal.TEXT_FEATURES: tensors["text_embeds"],
    }
    tokens = replace(vector.tokens(tiles), signals=signals)
    yield Case(pruner, (Stage(pruner.site(), int(meta["expected_count"])),), tokens)
