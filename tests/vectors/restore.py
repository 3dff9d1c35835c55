"""Vectors of RESTORE: what it merges beside a base's tokens, and a language model that reads rows
which are merged already.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from prunebench import INPUT, Keep, Layout, Pruner, Stage, Tile, VisualTokens
from prunebench.testing.case import Case
from prunebench.testing.decoder import Decoder
from prunebench.testing.vectors import Vector

SETS = ("restore_merge", "restore")


@dataclass(frozen=True)
class Kept(Pruner):
    """A base that keeps what the file says."""

    index: Tensor = field(compare=False, default_factory=lambda: torch.empty(0, dtype=torch.int64))

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        return Keep(self.index[: stage.keep])


def cases(method: Any, vector: Vector) -> Iterator[Case]:
    stages = (Stage(INPUT, int(vector.meta["budget"])),)
    if vector.meta["method"] == "restore_merge":
        base = Kept(vector.tensors["keep_selected"])
        yield Case(method(base=base), stages, vector.tokens())
        return
    yield _prompt(method, vector, stages)


def _prompt(method: Any, vector: Vector, stages: tuple[Stage, ...]) -> Case:
    """The prompt as it was before merging: every token of a cluster has the cluster's row."""
    start, count = int(vector.meta["image_start"]), int(vector.meta["visual_rows"])
    embeds, assignment = vector.tensors["input_embeds"], vector.tensors["assignment"]
    rows = embeds[start : start + count]
    whole = torch.cat([embeds[:start], rows[assignment], embeds[start + count :]])

    class Assigned(method):  # type: ignore[misc]  # a base that is known only now
        """Takes its clusters from the file, which does not bring what they were made of."""

        def base_keep(self, tokens: VisualTokens, stage: Stage) -> Keep:
            return Keep(torch.empty(0, dtype=torch.int64))

        def clusters(self, tokens: VisualTokens, index: Tensor, count: int) -> Any:
            first = torch.stack([(assignment == row).nonzero()[0, 0] for row in range(count)])
            return made(first, assignment)

        def explain(self, tokens: VisualTokens, stage: Stage) -> dict[str, Tensor]:
            keep = self.prune(tokens, stage)
            assert keep.bias is not None
            assert keep.places is not None
            sizes = keep.bias[-1].exp().round().long()
            return {"output_index": keep.places, "output_sizes": sizes}

    made = _function_of(method, "ordered")
    grid_rows, columns = vector.tensors["grid"].tolist()
    layout = Layout((Tile(grid_rows, columns),))
    tokens = VisualTokens(whole[start : start + len(assignment)], layout, torch.arange(len(layout)))
    model = Decoder.read(vector)
    assert model is not None
    decoder = Decoder(model.model, whole, torch.arange(start, start + len(assignment)))
    return Case(Assigned(base=Kept()), stages, tokens, decoder=decoder, alone=False)


def _function_of(method: Any, name: str) -> Any:
    """A function of the file that defines a method."""
    import sys

    return getattr(sys.modules[method.__module__], name)
