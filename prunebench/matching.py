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
    """Which of a sequence's rows merge into which.

    `sources` [n], the most similar pairs first, merge into `targets` [n] (several may share one);
    `likeness` [n] are the cosines. `order` [m] are the rows that stay.
    """

    sources: Tensor
    targets: Tensor
    likeness: Tensor
    order: Tensor


@dataclass(frozen=True)
class Rows:
    """Rows on their way through merges.

    `order` [n] are the places of the rows that are left, `features` [N, D] and `metric` [N, C] what
    they are and what they are compared by, `sizes` [N] how many each stands for; by place, float32.
    `class_token` says that one stands before them, which never merges.
    """

    order: Tensor
    features: Tensor
    metric: Tensor
    sizes: Tensor
    class_token: bool = True

    def __len__(self) -> int:
        return len(self.order)

    @cached_property
    def halves(self) -> tuple[Tensor, Tensor]:
        """Places of the rows that may merge, and of those into which they may: every second, so
        that the class token, row 0, would be among the first.
        """
        first = int(self.class_token)
        return self.order[first::2], self.order[1 - first :: 2]

    @cached_property
    def best(self) -> tuple[Tensor, Tensor]:
        """[s], [s] of every row that may merge the largest cosine to one of the others, and whose
        that is; ties go to the first.
        """
        sources, targets = self.halves
        first, second = self.metric[sources], self.metric[targets]
        likeness = normalize(first, dim=-1) @ normalize(second, dim=-1).T
        closest = likeness.argmax(1, keepdim=True)
        return likeness.gather(1, closest)[:, 0], targets[closest[:, 0]]

    def pairs(self, count: int) -> Pairs:
        """The `count` most similar pairs, or as many as half of the rows.

        Rows that stay come as official code lists them: of the first half in their order behind a
        class token, else the least similar last; then the second half.
        """
        sources, targets = self.halves
        if not len(targets):
            nothing = sources[:0]
            return Pairs(nothing, nothing, self.sizes[:0], self.order)
        likeness, partners = self.best
        ranked = top(likeness, len(likeness))
        merged, rest = ranked[: min(count, len(self) // 2)], ranked[min(count, len(self) // 2) :]
        if self.class_token:
            rest = rest.sort().values
        order = torch.cat([sources[rest], targets])
        return Pairs(sources[merged], partners[merged], likeness[merged], order)

    def above(self, threshold: float) -> int:
        """How many pairs are more alike than the threshold; at most half of the rows."""
        if not len(self.halves[1]):
            return 0
        return min(len(self) // 2, int((self.best[0] > threshold).sum()))

    def merged(self, pairs: Pairs) -> Rows:
        """What is left when these have merged: means weighed by sizes, which add up."""
        hosts, number = pairs.targets.unique(return_inverse=True)
        joining = self.sizes[pairs.sources]
        sizes = self.sizes[hosts].index_add(0, number, joining)

        def joined(values: Tensor) -> Tensor:
            """[N, D] the same, those of hosts averaged with what joins them."""
            sums = values[hosts] * self.sizes[hosts, None]
            sums.index_add_(0, number, values[pairs.sources] * joining[:, None])
            return values.index_copy(0, hosts, sums.div_(sizes[:, None]))

        return replace(
            self,
            order=pairs.order,
            features=joined(self.features),
            metric=joined(self.metric),
            sizes=self.sizes.index_copy(0, hosts, sizes),
        )
