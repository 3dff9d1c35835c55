"""PruMerge+ (ICCV 2025): PruMerge that also keeps tokens all over the image, at equal distances."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from prunebench.methods.prumerge import VARIANT, PruMerge
from torch import Tensor

from prunebench import register, top


@register(
    paper="https://arxiv.org/abs/2403.15388",
    code="https://github.com/42Shawn/LLaVA-PruMerge",
    variant=f"under a budget, a quarter by attention and the rest at equal distances; {VARIANT}",
)
@dataclass(frozen=True)
class PruMergePlus(PruMerge):  # type: ignore[misc]  # mypy reads methods/ as a package of its own
    """PruMerge whose survivors are the most attended tokens and, behind them, a grid.

    With `adaptive` the grid is every s-th token of the raster but for its last one, with s a third
    of how many tokens there are to an outlier, rounded down twice, as in official code: about three
    for an outlier. Under a budget three parts of four are the tokens at equal distances among those
    not taken.
    """

    work_by_shape = True
    own_share = 0.25

    def outliers(self, attention: Tensor) -> int:
        """How many survive: those that stand out, and the grid."""
        return len(self.adapted(attention))

    def adapted(self, attention: Tensor) -> Tensor:
        """The places of those that stand out, and of what the grid adds to them."""
        length = len(attention)
        best = top(attention, super().outliers(attention))
        step = max(1, int(int(length / len(best)) / 3))
        grid = torch.arange(0, max(1, length - 1), step, device=best.device)
        return torch.cat([best, grid[~torch.isin(grid, best)]])

    def survivors(self, attention: Tensor, count: int) -> Tensor:
        """[count] places in a tile with attention [n], in order."""
        if self.adaptive:
            return self.adapted(attention)[:count]
        best = top(attention, max(1, round(count / 4)))[:count]
        is_left = torch.ones_like(attention, dtype=torch.bool).index_fill(0, best, False)
        others = is_left.nonzero()[:, 0]
        missing = count - len(best)
        # in the middle of equal stretches
        grid = (2 * torch.arange(missing, device=best.device) + 1) * len(others)
        return torch.cat([best, others[grid // max(1, 2 * missing)]])
