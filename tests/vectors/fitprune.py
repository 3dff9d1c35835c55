"""FitPrune's vectors: attention of one layer, or a tiny LLaMA of 32 layers to prune in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from prunebench import Signal, Stage, llm
from prunebench.testing.case import Case
from prunebench.testing.decoder import Decoder
from prunebench.testing.vectors import Vector


def cases(method: Any, vector: Vector) -> Iterator[Case]:
    """Rows of the image's queries come before those of the text; complete forwards bring none."""
    meta, tokens = vector.meta, vector.tokens()
    pruner = method()
    if "llm_attention" in vector.tensors:
        attention = vector.tensors["llm_attention"]
        count = len(tokens)
        signals = {
            Signal.VISUAL_ATTENTION: attention[:, :count],
            Signal.TEXT_ATTENTION: attention[:, count:],
        }
        stage = Stage(pruner.site(), count - meta["removed"])
        yield Case(pruner, (stage,), replace(tokens, signals=signals))
        return
    alive, stages = len(tokens), []
    for layer, count in zip(meta["prune_layers"], meta["delete_counts"], strict=True):
        alive -= count
        stages.append(Stage(llm(before=layer + 1), alive))
    decoder = Decoder.read(vector)
    yield Case(pruner, tuple(stages), tokens, decoder=decoder, alone=False)
