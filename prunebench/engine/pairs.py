"""Pairs: what a method adds to attention scores by how far apart two positions are."""

from __future__ import annotations

import torch
from torch import Tensor

from prunebench.engine.setup import Setup
from prunebench.engine.stream import EngineError, Stream
from prunebench.pruner import contained
from prunebench.tokens import PairBias


class Pairs:
    """The pair biases of one batch, as scores over the rows of the stream that is being read.

    They are made anew where positions change, which is at stages alone, and charged to the method.
    """

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.scores: Tensor | None = None
        """[B, n, n] what is added to the score of every query and key; None where nothing is."""

    def read(self, stream: Stream, ids: Tensor) -> None:
        """Make the scores of a stream from its position ids [.., B, n]; raises EngineError for what
        is no bias of pairs.
        """
        if stream.pairs is None:
            return
        axes = axes_of(ids, len(stream.source))
        count = stream.width
        self.scores = torch.zeros(len(stream.source), count, count, device=ids.device)
        for row, functions in enumerate(stream.pairs):
            start = stream.start(row)
            live = axes[:, row, start:].float()
            for pair_bias in functions:
                with self.setup.trace.selecting(ids.device, [row]):
                    distance = live[:, :, None] - live[:, None, :]
                    self.scores[row, start:, start:] += self._added(pair_bias, distance)

    def _added(self, pair_bias: PairBias, distance: Tensor) -> Tensor:
        """[n, n] what a method adds at distances [P, n, n]."""
        name, shape = self.setup.ready.name, distance.shape[1:]
        with contained(name, "prune's pair_bias"):
            added = pair_bias(distance)
        if not isinstance(added, Tensor) or added.shape != shape:
            what = list(added.shape) if isinstance(added, Tensor) else type(added).__name__
            raise EngineError(
                f"{name}'s pair_bias gives {what} for distances {list(distance.shape)}; it must "
                f"give {list(shape)}"
            )
        if not bool(torch.isfinite(added).all()):
            raise EngineError(f"{name}'s pair_bias is not finite")
        return added.float()


def axes_of(ids: Tensor, batch: int) -> Tensor:
    """[P, B, n] position ids [B or 1, n] or [P, B, n], without a fourth leading row, which holds
    the plain positions of text.
    """
    axes = ids[None] if ids.dim() == 2 else ids
    axes = axes[1:] if len(axes) == 4 else axes
    return axes.expand(-1, batch, -1)
