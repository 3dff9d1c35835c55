"""Transitions: how much attention and feed-forward of LLM layers change what they are given."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from prunebench.engine.hooks import Run
from prunebench.engine.stream import EngineError, Stream, sent

PARTS = ("attention", "feed-forward")
"""What a layer consists of, in the order in which both are shown."""


@dataclass(frozen=True)
class Transitions:
    """What one prefill showed so far: by layer and number of the part [B, S, 2], and the stream
    that was in the layer.
    """

    values: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    streams: dict[int, Stream] = field(default_factory=dict)

    def note(self, layer: int, part: int, stream: Stream, run: Run) -> None:
        """Compare what entered and left a part of a layer, the first time that it runs: a token
        behind the prompt passes the same modules.
        """
        if (layer, part) in self.values:
            return
        self.values[layer, part] = compared(run.entering, run.leaving)
        self.streams[layer] = stream

    def of(self, layers: Iterable[int], row: int, alive: Tensor) -> Tensor:
        """[J, 2, S, 2] of these layers, for the sample `row` and its prompt positions `alive` [S].

        Raises EngineError for a layer that has not run.
        """
        changes = []
        for layer in layers:
            keys = [(layer, part) for part in range(len(PARTS))]
            if any(key not in self.values for key in keys):
                raise EngineError(f"layer {layer} has run without showing what it changes")
            both = torch.stack([self.values[key][row] for key in keys])
            columns = self.streams[layer].column_of(row, alive)
            changes.append(both.index_select(1, sent(columns, both.device)))
        # layers may lie on several devices
        return torch.stack([both.to(changes[-1].device) for both in changes])


@torch.no_grad()
def compared(entering: Tensor, leaving: Tensor) -> Tensor:
    """[B, S, 2] of rows [B, S, D], in float32: the norm of what leaves as a multiple of that of
    what enters, and the cosine of the two.

    Experts put out the rows of all samples one behind the other.
    """
    before, after = entering.float(), leaving.float().reshape(entering.shape)
    # a row of zeros has no direction and no size to compare with; what it gets is a number
    least = torch.finfo(before.dtype).tiny
    ratio = after.norm(dim=-1) / before.norm(dim=-1).clamp(min=least)
    cosine = torch.nn.functional.cosine_similarity(before, after, dim=-1)
    return torch.stack([ratio, cosine], dim=-1)
