"""Matching: the tokens of a sequence in two halves, of which those of one merge into the most
similar of the other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import normalize

from prunebench.select import top


@dataclass(frozen=True)
class Pairs:
    """Which of a sequence's rows merge into which, by their numbers.

    `sources` [n], the most similar pairs first, merge into `targets` [n] (several may share one);
    `likeness` [n] are the cosines. `rest` [m] are the other rows of the sources' half, in the order
    in which they go on.
    """

    sources: Tensor
    targets: Tensor
    likeness: Tensor
    rest: Tensor


@dataclass(frozen=True)
class Rows:
    """Rows on their way through merges.

    `order` [n] are the places of the rows that are left, `features` [n, D] and `metric` [n, C] what
    they are and what they are compared by, `sizes` [n] how many each stands for, in float32.
    `class_token` says that one stands before them, which never merges.
    """

    order: Tensor
    features: Tensor
    metric: Tensor
    sizes: Tensor
    class_token: bool = True

    def __len__(self) -> int:
        return len(self.order)

    def among(self, numbers: Tensor) -> Rows:
        """Those of these numbers."""
        return replace(
            self,
            order=self.order[numbers],
            features=self.features.index_select(0, numbers),
            metric=self.metric.index_select(0, numbers),
            sizes=self.sizes[numbers],
        )

    @cached_property
    def halves(self) -> tuple[slice, slice]:
        """The rows that may merge, and those into which they may: every second, so that the class
        token, row 0, would be among the first.
        """
        first = int(self.class_token)
        return slice(first, None, 2), slice(1 - first, None, 2)

    @cached_property
    def best(self) -> tuple[Tensor, Tensor]:
        """[s], [s] of every row that may merge the largest cosine to one of the others, and which
        of these it is; ties go to the first.
        """
        first, second = (self.metric[half] for half in self.halves)
        likeness = normalize(first, dim=-1) @ normalize(second, dim=-1).T
        closest = likeness.argmax(1, keepdim=True)
        return likeness.gather(1, closest)[:, 0], closest[:, 0]

    @property
    def has_targets(self) -> bool:
        """Whether there is anything to merge into."""
        return len(self.order[self.halves[1]]) > 0

    def pairs(self, count: int) -> Pairs:
        """The `count` most similar pairs, or as many as half of the rows.

        Rows that stay come as official code lists them: of the first half in their order behind a
        class token, else the least similar last; then the second half.
        """
        numbers = torch.arange(len(self), device=self.order.device)
        if not self.has_targets:
            return Pairs(numbers[:0], numbers[:0], self.sizes[:0], numbers)
        source, target = (numbers[half] for half in self.halves)
        likeness, partners = self.best
        ranked = top(likeness, len(likeness))
        merged, rest = ranked[: min(count, len(self) // 2)], ranked[min(count, len(self) // 2) :]
        if self.class_token:
            rest = rest.sort().values
        return Pairs(source[merged], target[partners[merged]], likeness[merged], source[rest])

    def above(self, threshold: float) -> int:
        """How many pairs are more alike than the threshold; at most half of the rows."""
        if not self.has_targets:
            return 0
        return min(len(self) // 2, int((self.best[0] > threshold).sum()))

    def merged(self, pairs: Pairs) -> Rows:
        """What is left when these have merged: means weighed by sizes, which add up."""
        numbers = torch.arange(len(self), device=self.order.device)
        targets = numbers[self.halves[1]] if self.has_targets else numbers[:0]
        left = self.among(torch.cat([pairs.rest, targets]))
        hosts, number = pairs.targets.unique(return_inverse=True)
        joining = self.sizes[pairs.sources]
        sizes = self.sizes[hosts].index_add(0, number, joining)
        # where they stand now: targets are every second row, behind those that stay
        places = len(pairs.rest) + (hosts - self.halves[1].start) // 2
        for values, rows in ((self.features, left.features), (self.metric, left.metric)):
            sums = values[hosts] * self.sizes[hosts, None]
            sums.index_add_(0, number, values[pairs.sources] * joining[:, None])
            rows[places] = sums.div_(sizes[:, None])
        left.sizes[places] = sizes
        return left
