"""Recycling: a part of the tokens that are dropped melts into a few that go on behind the others.

As SparseVLM has it, and what builds on it: of d dropped tokens the int(0.3 d) + 1 highest are
clustered by density peaks into a tenth as many groups, whose means go on.
"""

from __future__ import annotations

import torch
from torch import Tensor

from prunebench.cluster import density_peaks, distances, joined, means
from prunebench.tokens import Keep, VisualTokens


def recycled_count(dropped: int) -> int:
    """How many of the dropped tokens are merged, the highest of them."""
    return int(0.3 * dropped) + 1


def cluster_count(dropped: int) -> int:
    """Into how many tokens these are merged."""
    return recycled_count(dropped) // 10 + 1 if dropped > 0 else 0


def unmerged_count(there: int, keep: int) -> int:
    """How many of `there` tokens stay as they are, where `keep` go on with the merged ones: half of
    them at least.
    """
    if keep >= there:
        return there
    # one token more that stays is at most one cluster less
    count = max(0, keep - cluster_count(there))
    while count < keep and count + 1 + cluster_count(there - count - 1) <= keep:
        count += 1
    return max(count, keep - keep // 2)


def melted(tokens: VisualTokens, order: Tensor, stay: int, keep: int) -> Keep:
    """The first `stay` tokens of `order` [N] in the order in which they stand, and behind them the
    merged ones, `keep` in all.

    A merged token carries the index of its cluster's centre.
    """
    kept = order[:stay].sort().values
    count = min(keep, len(tokens)) - stay
    if count == 0:
        return Keep(kept, order="given")
    recycled = order[stay:][: max(count, recycled_count(len(tokens) - stay))]
    states = tokens.features[recycled]
    between = distances(states)
    centres = density_peaks(between, count, neighbours=count)
    rows = means(states, joined(between, centres), count).to(tokens.features.dtype)
    index = torch.cat([kept, recycled[centres]])
    return Keep(index, torch.cat([tokens.features[kept], rows]), order="given")
