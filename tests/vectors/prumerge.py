"""PruMerge's vectors: keys of CLIP's last block as one head, and its CLS token's query and key."""

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
    """Official code merges what the encoder puts out, so that this is shown as features; adaptive
    vectors leave the count to the method.
    """
    meta, tensors = vector.meta, vector.tensors
    pruner = method(neighbours=meta["neighbours"], adaptive=meta["adaptive"])
    signals = {
        Signal.ENCODER_KEYS: tensors["keys"][None],
        Signal.CLS_QUERIES: tensors["cls_query"][None, None, None],
        Signal.CLS_KEYS: tensors["cls_key"][None, None, None],
    }
    tokens = replace(vector.tokens(), features=tensors["encoder_features"], signals=signals)
    count = len(tokens) if meta["adaptive"] else int(meta["budget"])
    yield Case(pruner, (Stage(pruner.site(), count),), tokens, arranged=arranged)


def arranged(answers: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Rows as official code has them: survivors in order, then the summary, which is no token."""
    index = torch.cat([answers["order"], answers["summary"]])
    return {
        "keep": answers["order"].sort().values,
        "output_index": torch.cat([answers["order"], torch.tensor([-2])]),
        "merged_features": answers["merged_features"][torch.searchsorted(answers["keep"], index)],
    }
