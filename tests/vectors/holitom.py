"""HoliTom's vectors: the stage before the language model, and the one inside."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from prunebench import Layout, Signal, Stage, Tile, llm
from prunebench.testing.case import Case
from prunebench.testing.vectors import Vector
from prunebench.tokens import VisualTokens

SETS = ("holitom", "holitom_inner")


def cases(method: Any, vector: Vector) -> Iterator[Case]:
    """Of the inner stage there are the states of a prompt and the last row of attention."""
    meta, tensors = vector.meta, vector.tensors
    count = int(meta["expected_count"])
    if vector.name.startswith("holitom_inner"):
        features = tensors["hidden_states"][vector.image()]
        signals = {Signal.LAST_QUERY_ATTENTION: tensors["llm_attention"]}
        rows, columns = tensors["grid"].tolist()
        layout = Layout((Tile(rows, columns),))
        tokens = VisualTokens(features, layout, vector.tokens().index, signals=signals)
        yield Case(method(), (Stage(llm(1), count),), tokens)
        return
    pruner = method(
        threshold=meta["tau"],
        longest=meta["max_window"],
        beta=meta["beta"],
        ratio=meta["retain_ratio"],
    )
    received = tensors["received_attention"].flatten()[None, None]
    tokens = replace(vector.tokens(), signals={Signal.RECEIVED_ATTENTION: received})
    yield Case(pruner, (Stage(pruner.site(), count),), tokens)
