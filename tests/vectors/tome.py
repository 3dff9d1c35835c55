"""ToMe's vectors: one step between a class token, row 0, and its patches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from prunebench import Signal, Stage, vision
from prunebench.testing.case import Case
from prunebench.testing.vectors import Vector


def cases(method: Any, vector: Vector) -> Iterator[Case]:
    """The method is shown the patches alone, with the sizes that blocks before left."""
    tensors, pruner = vector.tensors, method()
    tokens = replace(
        vector.tokens(),
        features=tensors["encoder_features"][1:],
        signals={Signal.ENCODER_KEYS: tensors["keys"][None, :, 1:]},
    )
    if "sizes" in tensors:
        tokens = replace(tokens, memo={pruner.entry(0): (tokens.index, tensors["sizes"][1:])})
    # the class token is among the rows that official code counts
    stage = Stage(vision(before=1), int(vector.meta["expected_count"]) - 1)
    yield Case(pruner, (stage,), tokens, arranged=behind_class_token(vector))


def behind_class_token(
    vector: Vector,
) -> Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]:
    """The answers as official code counts rows: the class token is one."""
    first = vector.tensors["encoder_features"][:1]
    size = vector.tensors.get("sizes", torch.ones(1))[:1]

    def arranged(answers: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        rows = answers["merged_features"]
        rows = rows[torch.searchsorted(answers["keep"], answers["output_index"])]
        row = torch.zeros(1, dtype=torch.int64)
        return {
            "keep": torch.cat([row, answers["keep"] + 1]),
            "output_index": torch.cat([row, answers["output_index"] + 1]),
            "merge_source": answers["merge_source"] + 1,
            "merge_target": answers["merge_target"] + 1,
            "merged_features": torch.cat([first, rows]),
            "output_sizes": torch.cat([size, answers["output_sizes"]]),
        }

    return arranged
