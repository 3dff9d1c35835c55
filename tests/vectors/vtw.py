"""VTW's vectors: a tiny LLaMA that its visual tokens leave before layer K."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prunebench import Stage, Tile
from prunebench.testing.case import Case
from prunebench.testing.decoder import Decoder
from prunebench.testing.vectors import Vector


def cases(method: Any, vector: Vector) -> Iterator[Case]:
    """Nothing is chosen, so that there is nothing to compare outside the model."""
    pruner = method(layer=vector.meta["K"], depth=vector.meta["llm_config"]["num_hidden_layers"])
    tokens = vector.tokens([Tile(1, int(vector.meta["image_length"]))])
    stages = (Stage(pruner.site(), 0),)
    yield Case(pruner, stages, tokens, decoder=Decoder.read(vector), alone=False)
