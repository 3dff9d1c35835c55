"""V2Drop's vectors: a tiny LLaMA to prune in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prunebench import Stage, llm
from prunebench.testing.case import Case
from prunebench.testing.decoder import Decoder
from prunebench.testing.vectors import Vector


def cases(method: Any, vector: Vector) -> Iterator[Case]:
    """States inside the model are not in the file."""
    meta = vector.meta
    pruner = method(layers=tuple(meta["prune_layers"]), depth=24)
    stages = []
    for layer, count in zip(meta["prune_layers"], meta["keep_counts"], strict=True):
        stages.append(Stage(llm(before=layer), count))
    decoder = Decoder.read(vector)
    yield Case(pruner, tuple(stages), vector.tokens(), decoder=decoder, alone=False)
