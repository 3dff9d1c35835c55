"""Greedy: subsets that grow by the token that adds most to those before it."""

from __future__ import annotations

from typing import Protocol, Self

import torch
from torch import Tensor

LOOP_ON_CPU = False
"""Whether loops over tokens of a GPU run on the CPU, where a step waits for no launch, but the
products have to be brought first. `tests/bench_select.py` compares the two.
"""

PART = 64
"""Rows that are brought to double precision at a time: as many as stay in the cache."""


class Rows(Protocol):
    """Rows of a symmetric matrix of tokens [N, N], one at a time; see `ProductRows`."""

    @property
    def device(self) -> torch.device:
        """Where rows come out."""

    def on(self, device: torch.device) -> Self:
        """The same rows, coming out on that device."""

    def row(self, pick: Tensor, promise: Tensor) -> Tensor:
        """[N] the row of `pick` [1]; the largest of `promise` [N] are likely to be asked for
        next.
        """


def loop_device(device: torch.device) -> torch.device:
    """Where a greedy loop runs whose tokens are on `device`: the one place that decides it."""
    return torch.device("cpu") if LOOP_ON_CPU else device


def greedy_span(
    energy: Tensor, rows: Rows, count: int, residue: float, weights: Tensor | None = None
) -> Tensor:
    """[count] places in the order of choice: each the one of largest weighed residual, which is
    what the picks before it do not span of its `energy` [N], in float32.

    `rows` are the inner products. Residuals are updated by an incremental Cholesky factorisation,
    O(count^2 N) beside the rows. One below the share `residue` of its energy is rounding; what the
    picks span already follows by the energy that it had at first. `weights` [N] are ones where
    they are left out.
    """
    home = energy.device
    rows = rows.on(loop_device(home))
    energy = energy.to(rows.device)
    weigh = torch.ones_like(energy) if weights is None else weights.to(rows.device)
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
        inner = rows.row(pick, promise) - above.T @ above[:, pick][:, 0]
        has_residual = energy[pick] > spanned[pick]
        length = energy[pick].clamp(min=1e-30).sqrt()
        # a residual that is rounding alone is no direction: taken for one it would spoil the rest
        factor[number] = torch.where(has_residual, inner / length, 0.0)
        energy = energy - factor[number].square()
        energy = energy.index_fill(0, pick, -torch.inf)
        last = last.index_fill(0, pick, -torch.inf)
        order.append(pick)
    return _joined(order, home)


def greedy_map(variance: Tensor, rows: Rows, count: int) -> Tensor:
    """[count] places in the order of choice: the greedy maximum of a determinantal point process.

    Its kernel is symmetric and positive semi-definite, with `variance` [N] on its diagonal, in
    float32. Every pick is the token of largest conditional variance (Chen et al., NeurIPS 2018).
    """
    # below this share of its own variance float32 cannot tell a residual from rounding
    return greedy_span(variance, rows, count, residue=1e-6)


def greedy_apart(similarity: Tensor, count: int) -> Tensor:
    """[count] places in the order of choice: farthest-point sampling by `similarity` [N, N].

    First the token least like its most similar other, then always the one least like the most
    similar of the picks before. Equal ones come in their order.
    """
    home = similarity.device
    similarity = similarity.to(loop_device(home))
    # a token is not its own other; the diagonal is put back, for a copy would be large
    own = similarity.diagonal().clone()
    nearest = similarity.fill_diagonal_(-torch.inf).amax(dim=0)
    similarity.diagonal().copy_(own)
    pick = nearest.argmin().view(1)
    order = [pick]
    closest = torch.full_like(similarity[0], -torch.inf)  # [N] similarity to the nearest pick
    for _ in range(min(count, len(similarity)) - 1):
        torch.maximum(closest, similarity.index_select(0, pick)[0], out=closest)
        closest.index_fill_(0, pick, torch.inf)
        pick = closest.argmin().view(1)
        order.append(pick)
    return _joined(order, home)


def greedy_marginal(
    bonus: Tensor, rows: Rows, count: int, weight: float = 1.0, together: int = 1
) -> Tensor:
    """[count] places in the order of choice: maximal marginal relevance.

    First the highest `bonus` [N], then argmax of bonus less `weight` times the largest entry of
    `rows` with those taken; `together` at a time, the best first and equal ones in their order.
    """
    home = bonus.device
    rows = rows.on(loop_device(home))
    values = bonus = bonus.to(rows.device)
    closest = torch.full_like(bonus, -torch.inf)
    order: list[Tensor] = []
    while len(order) < count:
        if together == 1:
            picks = values.argmax().view(1)
        else:
            ranked = values.sort(descending=True, stable=True).indices
            picks = ranked[: min(together, count - len(order))]
        bonus = bonus.index_fill(0, picks, -torch.inf)
        for pick in picks.split(1):
            closest = torch.maximum(closest, rows.row(pick, values))
            order.append(pick)
        values = bonus - weight * closest
    return _joined(order, home)


def greedy_cover(rows: Tensor, gains: Tensor, count: int, weights: Tensor | None = None) -> Tensor:
    """[count] places in the order of choice: greedy facility location.

    `rows` [R, N] say how well each of N tokens covers each of R things, `gains` [N] weigh tokens
    and `weights` [R] things. Every pick is argmax_j gains_j sum_r weights_r max(0, rows_rj - c_r),
    where c_r is the best cover among the picks before, 0 at first. Sums are kept in float64 and
    only those of things whose cover has changed are made anew.
    """
    covers = rows.new_zeros(len(rows))
    of_things = torch.ones_like(covers) if weights is None else weights
    sums = torch.zeros_like(rows[0], dtype=torch.float64)
    for part, weighs in zip(rows.split(PART), of_things.split(PART), strict=True):
        sums += (part.clamp(min=0) * weighs[:, None]).double().sum(0)
    is_taken = torch.zeros_like(sums)  # 0, and -inf behind a pick
    order = []
    for _ in range(count):
        pick = (sums * gains + is_taken).argmax().view(1)
        is_taken.index_fill_(0, pick, -torch.inf)
        order.append(pick)
        column = rows.index_select(1, pick)[:, 0]
        better = (column > covers).nonzero()[:, 0]
        before, after = covers[better, None], column[better, None]
        # what others would have added between the old and the new cover, they add no more
        lost = torch.clamp(rows[better], before, after).sub_(before).mul_(of_things[better, None])
        # not sum(dtype=...), which takes three times as long
        sums -= lost.double().sum(0)
        covers = torch.maximum(covers, column)
    return torch.cat(order)


def _joined(order: list[Tensor], device: torch.device) -> Tensor:
    """[count] the picks behind one another."""
    return torch.cat(order).to(device)
