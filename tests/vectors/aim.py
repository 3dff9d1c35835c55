"""AIM's vectors: logits of a whole prompt, and frames to merge."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from prunebench import INPUT, Signal, Stage, Tile, llm
from prunebench.testing.case import Case
from prunebench.testing.vectors import Vector

SETS = ("aim", "aim_merge")


def cases(method: Any, vector: Vector) -> Iterator[Case]:
    """With one channel for every place, keys that tell places apart and queries that hold the
    logits give these logits.
    """
    meta, count = vector.meta, int(vector.meta["expected_count"])
    if vector.name.startswith("aim_merge"):
        rows, columns = vector.tensors["grid"].tolist()
        tokens = vector.tokens([Tile(rows, columns, frame=n) for n in range(meta["frames"])])
        yield Case(method(), (Stage(INPUT, count),), tokens)
        return
    logits = vector.tensors["llm_logits"]  # [H, n, n]
    places = logits.shape[1]
    signals = {
        Signal.PROMPT_QUERIES: logits * places**0.5,
        Signal.PROMPT_KEYS: torch.eye(places).expand(len(logits), -1, -1),
        Signal.VISUAL_PLACES: vector.image(),
    }
    pruner = method(temperature=meta["temperature"], steps=meta["iterations"])
    yield Case(pruner, (Stage(llm(before=1), count),), replace(vector.tokens(), signals=signals))
