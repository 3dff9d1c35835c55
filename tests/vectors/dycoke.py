"""DyCoke's vectors: frames, and what is pruned of every second one; and what the steps of an answer
pay, and which of them hide tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from prunebench import DecodingStep, Layout, Stage, Tile, VisualTokens, llm
from prunebench.testing.case import Case
from prunebench.testing.vectors import Vector

SETS = ("dycoke", "dycoke_decode")


def cases(method: Any, vector: Vector) -> Iterator[Case]:
    """The count follows from the frames and the rate; the official code loses a last odd frame."""
    if "steps" in vector.meta:
        yield decoding(method(hidden=vector.meta["dycoke_p"]), vector)
        return
    pruner = method(official=True)
    stage = Stage(pruner.site(), int(vector.meta["expected_count"]))
    yield Case(pruner, (stage,), vector.tokens())


def decoding(pruner: Any, vector: Vector) -> Case:
    """All tokens stay, and every step is asked what it attends to."""
    count = vector.tensors["llm_attention"].shape[-1]
    tokens = VisualTokens(torch.zeros(count, 1), Layout((Tile(1, count),)), torch.arange(count))
    steps = partial(answers, pruner, vector.tensors["llm_attention"])
    return Case(pruner, (Stage(pruner.site(), count),), tokens, prompt=lambda _: steps())


def answers(pruner: Any, attention: Tensor) -> Mapping[str, Tensor]:
    """What the steps [S, H, N] come to, by the names of the official vectors."""
    memo: dict[str, Any] = {}
    kept, hides, likenesses = {}, [], []
    for number, rows in enumerate(attention):
        index = torch.arange(rows.shape[1])
        step = DecodingStep(index, rows, len(index), llm(pruner.layer), number, memo)
        likenesses.append(pruner.alike(step, rows.mean(dim=0)))
        places = pruner.decode(step)
        hides.append(int(places is not None))
        if places is not None:
            kept[f"stage{number}.keep"] = places.sort().values
    return {**kept, "pruned": torch.tensor(hides), "similarities": torch.tensor(likenesses)}
