"""HoloV's vectors: CLS attention of one tile, and stretches that cannot hold their share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from prunebench import Signal, Stage
from prunebench.testing.case import Case
from prunebench.testing.vectors import Vector


def cases(method: Any, vector: Vector) -> Iterator[Case]:
    """Official code gives rows in the order of choice, a whole stretch in reading order, and zeros
    (-1) for what is missing.
    """
    meta = vector.meta
    pruner = method(chunks=meta["chunks"], official=True)
    attention = {Signal.CLS_ATTENTION: vector.cls_attention([22])}
    tokens = replace(vector.tokens(), signals=attention)

    def arranged(answers: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        order, stretches = answers["order"], torch.arange(len(tokens))
        rows = []
        for stretch in stretches.tensor_split(meta["chunks"]):
            members = order[torch.isin(order, stretch)]
            is_whole = len(members) == len(stretch)
            rows.append(members.sort().values if is_whole else members)
        index = torch.cat(rows)
        return {"output_index": pad(index, (0, int(meta["budget"]) - len(index)), value=-1)}

    stage = Stage(pruner.site(), int(meta["budget"]))
    yield Case(pruner, (stage,), tokens, arranged=arranged)
