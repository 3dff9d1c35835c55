"""PruneSID's vectors: CLS attention, and features of as many directions as it asks for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from prunebench import Signal, Stage
from prunebench.testing.case import Case
from prunebench.testing.vectors import Vector


def cases(method: Any, vector: Vector) -> Iterator[Case]:
    """Official code hands on the CLS row, and then the picks group after group."""
    pruner = method()
    signals = {
        Signal.CLS_ATTENTION: vector.cls_attention([vector.meta["score_layer"]]),
        Signal.ENCODER_FEATURES: vector.tensors["encoder_features"][None],
    }
    tokens = replace(vector.tokens(), signals=signals)
    stage = Stage(pruner.site(), int(vector.meta["expected_count"]))
    yield Case(pruner, (stage,), tokens, arranged=arranged)


def arranged(answers: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """-1 stands for the CLS row."""
    return {"output_index": torch.cat([torch.tensor([-1]), answers["order"]])}
