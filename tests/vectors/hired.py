"""HiRED's vectors: one tile, or a thumbnail and crops with padding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from prunebench import Signal, Stage
from prunebench.testing.case import Case
from prunebench.testing.translators import load_translator
from prunebench.testing.vectors import Vector


def cases(method: Any, vector: Vector) -> Iterator[Case]:
    """Official code hands on the thumbnail, and then the crops' grid line after line."""
    meta, tensors = vector.meta, vector.tensors
    pruner = method(alpha=meta.get("alpha", 0.5), official=True)
    blocks = [meta.get("budget_layer", meta["score_layer"]), meta["score_layer"]]
    attention = {Signal.CLS_ATTENTION: vector.cls_attention(blocks)}
    tiles = None
    if "tile_grid" in tensors:
        # laid out as HERO's are
        hero = load_translator("hero")
        assert hero is not None
        tiles = hero.translate.__globals__["tiles"](vector)
    tokens = replace(vector.tokens(tiles), signals=attention)
    stage = Stage(pruner.site(), int(meta["budget"]))

    def arranged(answers: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        keep, layout = answers["keep"], tokens.layout
        if tiles is None:
            return {}
        across = int(tensors["tile_grid"][1])
        rows, columns = tensors["grid"].tolist()
        crop = (layout.tile[keep] - 1).clamp(min=0)
        line = crop // across * rows + layout.row[keep]
        place = line * across * columns + crop % across * columns + layout.column[keep]
        # the thumbnail before all crops
        place[layout.tile[keep] == 0] -= len(layout)
        return {"output_index": keep[place.argsort()]}

    yield Case(pruner, (stage,), tokens, arranged=arranged)
