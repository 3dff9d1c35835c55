"""Random: keep tokens drawn uniformly, without replacement; the control that every method must
beat.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from prunebench import ScorePruner, VisualTokens, register


@register()
@dataclass(frozen=True)
class Random(ScorePruner):
    """Rank by a permutation drawn on the CPU from (`seed`, the sample's seed): the same draw on
    every device.
    """

    work_by_shape = True
    seed: int = 0

    def score(self, tokens: VisualTokens) -> Tensor:
        # an odd constant far from 1 keeps (0, 1) and (1, 0) apart
        seed = (self.seed * 0x9E3779B97F4A7C15 + tokens.seed) % 2**63
        return torch.randperm(len(tokens), generator=torch.Generator().manual_seed(seed))
