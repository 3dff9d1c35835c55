"""Greedy: subsets that grow by the token that adds most to those before it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Row = Callable[[Tensor, Tensor], Tensor]
"""(pick [1], promise [N]) -> [N] inner products with the pick; the largest promises are likely to
be asked for next.
"""


def greedy_span(
    energy: Tensor, row: Row, count: int, residue: float, weights: Tensor | None = None
) -> Tensor:
    """[count] places in the order of choice: each the one of largest weighed residual, which is
    what the picks before it do not span of its `energy` [N], in float32.

    Residuals are updated by an incremental Cholesky factorisation, O(count^2 N) beside the rows.
    One below the share `residue` of its energy is rounding; what the picks span already follows
    by the energy that it had at first. `weights` [N] are ones where they are left out.
    """
    weigh = torch.ones_like(energy) if weights is None else weights
    spanned = energy * residue
    # in (-1, 0): behind every token that has a residual
    last = -1 / (1 + energy * weigh)
    factor = energy.new_zeros(count, len(energy))  # rows of the Cholesky factor
    order = []
    for number in range(count):
        # picks stay one-element tensors: an int would wait for the GPU in every round
        promise = energy * weigh
        pick = torch.where(energy > spanned, promise, last).argmax().view(1)
        above = factor[:number]
        # the inner products with the pick, less what earlier picks span of them
        inner = row(pick, promise) - above.T @ above[:, pick][:, 0]
        has_residual = energy[pick] > spanned[pick]
        length = energy[pick].clamp(min=1e-30).sqrt()
        # a residual that is rounding alone is no direction: taken for one it would spoil the rest
        factor[number] = torch.where(has_residual, inner / length, 0.0)
        energy = energy - factor[number].square()
        energy = energy.index_fill(0, pick, -torch.inf)
        last = last.index_fill(0, pick, -torch.inf)
        order.append(pick)
    return torch.cat(order)


def greedy_map(kernel: Tensor, count: int) -> Tensor:
    """[count] places in the order of choice: the greedy maximum of a determinantal point process.

    `kernel` [N, N] is symmetric and positive semi-definite, float32. Every pick is the token of
    largest conditional variance (Chen et al., NeurIPS 2018).
    """

    def row(pick: Tensor, _promise: Tensor) -> Tensor:
        return kernel.index_select(0, pick)[0]

    # below this share of its own variance float32 cannot tell a residual from rounding
    return greedy_span(kernel.diagonal().clone(), row, count, residue=1e-6)


def greedy_cover(rows: Tensor, gains: Tensor, count: int, weights: Tensor | None = None) -> Tensor:
    """[count] places in the order of choice: greedy facility location.

    `rows` [R, N] say how well each of N tokens covers each of R things, `gains` [N] weigh tokens
    and `weights` [R] things. Every pick is argmax_j gains_j sum_r weights_r max(0, rows_rj - c_r),
    where c_r is the best cover among the picks before, 0 at first. Sums are kept in float64 and
    only those of things whose cover has changed are made anew.
    """
    covers = rows.new_zeros(len(rows))
    of_things = torch.ones_like(covers) if weights is None else weights
    sums = (rows.clamp(min=0) * of_things[:, None]).sum(0, dtype=torch.float64)
    is_free = torch.ones(rows.shape[1], dtype=torch.bool, device=rows.device)
    order = []
    for _ in range(count):
        values = (sums * gains).masked_fill(~is_free, -torch.inf)
        pick = values.argmax().view(1)
        is_free = is_free.index_fill(0, pick, False)
        order.append(pick)
        column = rows.index_select(1, pick)[:, 0]
        better = (column > covers).nonzero()[:, 0]
        changed, before = rows[better], covers[better, None]
        lost = (changed - before).clamp(min=0) - (changed - column[better, None]).clamp(min=0)
        sums = sums - (lost * of_things[better, None]).sum(0, dtype=torch.float64)
        covers = torch.maximum(covers, column)
    return torch.cat(order)
