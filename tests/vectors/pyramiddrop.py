"""PyramidDrop's vectors: an attention row for every stage, and a tiny LLaMA to prune in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from prunebench import Signal
from prunebench.testing.case import Case
from prunebench.testing.decoder import Decoder
from prunebench.testing.vectors import Vector


def cases(method: Any, vector: Vector) -> Iterator[Case]:
    """A stage's row [H, N_t] has the image tokens that are alive there."""
    layers, ratios = vector.meta["layer_list"], vector.meta["ratios"]
    pruner = method(layers=tuple(layers), ratios=tuple(ratios))
    tokens = vector.tokens()
    depth = vector.meta["llm_config"]["num_hidden_layers"]
    stages = pruner.plan(None, len(tokens), depth)

    def observe(
        stage: int, _index: Tensor, features: Tensor
    ) -> tuple[Tensor, Mapping[Signal, Tensor]]:
        row = vector.tensors[f"stage{stage}.llm_attention"]
        return features, {Signal.NEXT_QUERY_ATTENTION: row}

    yield Case(pruner, stages, tokens, observe, Decoder.read(vector))
