"""VidCom2's vectors: the authors' code, one file with newlines, and vLLM's, which meets a total."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from prunebench import Layout, Stage
from prunebench.testing.case import Case
from prunebench.testing.vectors import Vector
from prunebench.tokens import VisualTokens

SETS = ("vidcom2", "vidcom2_vllm")

NEWLINE = -3
"""What stands for a newline in `output_index`."""


def cases(method: Any, vector: Vector) -> Iterator[Case]:
    """The authors' files give the share R, vLLM's what is pruned."""
    meta, tokens = vector.meta, vector.tokens()
    count = int(meta["expected_count"])
    if vector.name.startswith("vidcom2_vllm"):
        pruner = method(ratio=1 - meta["pruning_rate"], repair="tokens")
        yield Case(pruner, (Stage(pruner.site(), count),), tokens)
    elif "output_index" in vector.tensors:
        pruner = method(ratio=meta["base_scale"], newlines="stay")
        tokens = with_newlines(tokens)
        stage = Stage(pruner.site(), count + int(tokens.newline.sum()))
        yield Case(pruner, (stage,), tokens, prompt=official_order(tokens.layout))
    else:
        pruner = method(ratio=meta["base_scale"])
        yield Case(pruner, (Stage(pruner.site(), count),), tokens)


def with_newlines(tokens: VisualTokens) -> VisualTokens:
    """The same frames with a newline behind every row."""
    layout = Layout(tuple(replace(tile, newlines=True) for tile in tokens.tiles))
    features = torch.zeros(len(layout), tokens.features.shape[1])
    features[~layout.newline] = tokens.features
    return VisualTokens(features, layout, torch.arange(len(layout)))


def official_order(layout: Layout) -> Callable[[Tensor], Mapping[str, Tensor]]:
    """What is kept in patches, and the rows with a frame's newlines behind its patches."""
    number = (~layout.newline).cumsum(0) - 1

    def answers(keep: Tensor) -> Mapping[str, Tensor]:
        patches = keep[~layout.newline[keep]]
        rows = torch.where(layout.newline[keep], NEWLINE, number[keep])
        # by frame, patches before newlines
        order = (2 * layout.tile[keep] + layout.newline[keep]).argsort(stable=True)
        return {"keep": number[patches], "output_index": rows[order]}

    return answers
