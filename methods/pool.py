"""Pool: average pooling to the budget; the control for methods that merge."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.utils.rnn import pad_sequence

from prunebench import Keep, Pruner, Stage, VisualTokens, register, windows


@register()
@dataclass(frozen=True)
class Pool(Pruner):
    """Replace every window of a regular 2-D grid by the mean of its tokens, y = (1/|W|) sum_{i in
    W} x_i.

    The mean stands at the place of the window's middle token.
    """

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        grid = windows(tokens, stage.keep)
        middle = torch.stack([w[w.shape[0] // 2, w.shape[1] // 2] for w in grid])
        place = pad_sequence([w.flatten() for w in grid], batch_first=True, padding_value=-1)
        # gathered and summed rather than index_add: that adds in a varying order on a GPU
        member = (place >= 0).to(tokens.features.device).unsqueeze(-1)
        rows = tokens.features[place.clamp(min=0).to(tokens.features.device)].float() * member
        return Keep(middle, (rows.sum(dim=1) / member.sum(dim=1)).to(tokens.features.dtype))
