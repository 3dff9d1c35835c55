"""Kept logits: where the positions whose logits are asked for have gone in a pruned sequence."""

from __future__ import annotations

import torch
from torch import Tensor

from prunebench.engine.stream import EngineError, Stream


def map_logits(kept: Tensor, stream: Stream) -> None:
    """Change the positions [n] whose logits are asked for to the columns where they are now.

    Raises EngineError where they are nowhere, or elsewhere in each sample.
    """
    positions = kept.cpu()
    columns = []
    for row, source in enumerate(stream.source):
        dropped = positions[~torch.isin(positions, source)]
        if len(dropped):
            raise EngineError(
                f"logits_to_keep asks for position {int(dropped[0])}, which is pruned or padding "
                f"in sample {row}; ask for positions of text"
            )
        columns.append(stream.column_of(row, positions))
    if any(not torch.equal(columns[0], other) for other in columns):
        raise EngineError(
            "logits_to_keep means other places in each pruned sample; call the model for one at a "
            "time"
        )
    # in place: it is this very tensor that the model was given as logits_to_keep
    kept.copy_(columns[0])
