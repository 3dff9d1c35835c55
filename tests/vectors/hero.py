"""HERO's vectors: a thumbnail and crops of 24 x 24 tokens, with CLS attention and embeddings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from prunebench import Signal, Stage, Tile
from prunebench.testing.case import Case
from prunebench.testing.vectors import Vector


def cases(method: Any, vector: Vector) -> Iterator[Case]:
    """Temperatures, alpha and blocks are published nowhere, and every vector has its own."""
    meta, tensors = vector.meta, vector.tensors
    pruner = method(
        alpha=meta["alpha"],
        saliency_temperature=meta["T_cls"],
        relevance_temperature=meta["T_clip"],
        density=meta["density_weight"],
        low=tuple(meta["low_layers"]),
        high=tuple(meta["high_layers"]),
    )
    blocks = [*meta["low_layers"], *meta["high_layers"]]
    signals = {
        Signal.CLS_ATTENTION: vector.cls_attention(blocks),
        Signal.CLS_FEATURES: tensors["cls_states"][None],
        Signal.CLIP_TILES: tensors["clip_image_embeds"],
        Signal.CLIP_TEXT: tensors["clip_text_embeds"],
    }
    tokens = replace(vector.tokens(tiles(vector)), signals=signals)
    stage = Stage(pruner.site(), sum(meta["budget"].values()))
    yield Case(pruner, (stage,), tokens)


def tiles(vector: Vector) -> list[Tile]:
    """A thumbnail, and the grid of crops in whose middle the image lies, as large as it fits."""
    rows, columns = vector.tensors["grid"].tolist()
    down, across = vector.tensors["tile_grid"].tolist()
    width, height = vector.tensors["image_size"].tolist()
    scale = min(across * columns / width, down * rows / height)  # tokens a pixel
    crop_width = columns / (width * scale)  # shares of the image's sides
    crop_height = rows / (height * scale)
    grid = [Tile(rows, columns, "thumbnail")]
    for y in range(down):
        upper, lower = (0.5 + (line - down / 2) * crop_height for line in (y, y + 1))
        for x in range(across):
            left, right = (0.5 + (line - across / 2) * crop_width for line in (x, x + 1))
            grid.append(Tile(rows, columns, "crop", region=(left, upper, right, lower)))
    return grid
