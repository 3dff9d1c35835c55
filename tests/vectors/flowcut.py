"""FlowCut's vectors: CLS attention and value projections of every block of an encoder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from prunebench import INPUT, Signal, Stage
from prunebench.testing.case import Case
from prunebench.testing.vectors import Vector


def cases(method: Any, vector: Vector) -> Iterator[Case]:
    """A stage is shown what its block says of the patches that are alive."""
    meta, tensors = vector.meta, vector.tensors
    tokens = vector.tokens()
    pruner = replace(method(), block=meta["layers"] - 1)
    count = int(meta["expected_count"])
    stages = (*pruner.looks(len(tokens), count), Stage(INPUT, count))

    def observe(
        block: int, index: Tensor, features: Tensor
    ) -> tuple[Tensor, Mapping[Signal, Tensor]]:
        values = tensors["values"][block]
        return features, {
            Signal.CLS_ATTENTION: tensors["cls_attention"][None, block][..., index],
            Signal.ENCODER_VALUES: values[None, :, 1:][:, :, index],
            Signal.CLS_VALUES: values[None, :, :1],
        }

    def arranged(answers: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        names = [f"stage{number}.keep" for number in range(meta["layers"])]
        return {"tokens_per_layer": torch.tensor([len(answers[name]) for name in names])}

    yield Case(pruner, stages, tokens, observe, arranged=arranged)
