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

    work_by_shape = True

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        """[K, D] means, one a window, in the order of the windows."""
        features = tokens.features
        middles, members = [], []
        for window in windows(tokens, stage.keep):  # [h, w] places
            height, width = window.shape
            middles.append(window[height // 2, width // 2])
            members.append(window.flatten())
        # gathered and summed rather than index_add: that adds in a varying order on a GPU
        places = pad_sequence(members, batch_first=True, padding_value=-1).to(features.device)
        is_member = (places >= 0).unsqueeze(-1)
        rows = features[places.clamp(min=0)].float() * is_member  # [K, members, D]
        means = rows.sum(dim=1) / is_member.sum(dim=1)
        return Keep(torch.stack(middles), means.to(features.dtype))
