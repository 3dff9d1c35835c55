"""TransPrune's vectors: a tiny LLaMA to prune in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prunebench.testing.case import Case
from prunebench.testing.decoder import Decoder
from prunebench.testing.vectors import Vector


def cases(method: Any, vector: Vector) -> Iterator[Case]:
    """What the layers change is not in the file."""
    meta, tokens = vector.meta, vector.tokens()
    pruner = method(
        layers=tuple(meta["pruning_layer_list"]),
        accumulating=tuple(meta["accumulating_layer_list"]),
        ratios=tuple(meta["image_token_ratio_list"]),
        depth=meta["llm_config"]["num_hidden_layers"],
    )
    stages = pruner.plan(None, len(tokens), pruner.depth)
    yield Case(pruner, stages, tokens, decoder=Decoder.read(vector), alone=False)
