"""FastV's vectors: attention rows of the layer before K, and a tiny LLaMA to prune in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from prunebench import Signal, Stage
from prunebench.testing.case import Case
from prunebench.testing.decoder import Decoder
from prunebench.testing.vectors import Vector


def cases(method: Any, vector: Vector) -> Iterator[Case]:
    """`llm_attention` [H, Q, N] has a row for each text token behind the image; the last counts."""
    pruner = method(layer=vector.meta["K"])
    last_row = vector.tensors["llm_attention"][:, -1]
    tokens = replace(vector.tokens(), signals={Signal.LAST_QUERY_ATTENTION: last_row})
    count = round(len(tokens) * (1 - vector.meta["R"]))
    stage = Stage(pruner.site(), count)
    yield Case(pruner, (stage,), tokens, decoder=Decoder.read(vector))
