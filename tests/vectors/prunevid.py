"""PruneVid's vectors: the stage before the language model, and the one inside."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from prunebench import Layout, Signal, Stage, Tile, llm
from prunebench.testing.case import Case
from prunebench.testing.vectors import Vector
from prunebench.tokens import VisualTokens

SETS = ("prunevid", "prunevid_inner")


def cases(method: Any, vector: Vector) -> Iterator[Case]:
    """The inner stage is told of groups as the first leaves them in the memo."""
    meta = vector.meta
    count = int(meta["expected_count"])
    if vector.name.startswith("prunevid_inner"):
        attention = vector.tensors["llm_attention"]
        groups = group_numbers(vector)
        layout = Layout((Tile(1, len(groups)),))
        tokens = VisualTokens(
            torch.zeros(len(groups), 0),
            layout,
            torch.arange(len(groups)),
            memo={"prunevid": groups},
            signals={Signal.TEXT_ATTENTION: attention},
        )
        yield Case(method(alpha=meta["alpha"]), (Stage(llm(1), count),), tokens)
        return
    pruner = method(
        windows=meta["temporal_segment_ratio"],
        threshold=meta["tau"],
        ratio=meta["cluster_ratio"],
    )
    yield Case(pruner, (Stage(pruner.site(), count),), vector.tokens())


def group_numbers(vector: Vector) -> torch.Tensor:
    """[N] per window its static rows are a group, and then those of each of its frames."""
    names = ("window_sizes", "static_sizes", "dynamic_sizes")
    sizes: list[int] = []
    for frames, static, dynamic in zip(*(vector.tensors[n].tolist() for n in names), strict=True):
        sizes += [static, *[dynamic // frames] * frames]
    return torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
