"""Clusters: density peaks, the points that join them, and the means of what joined."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from prunebench.products import gram
from prunebench.select import top


def distances(points: Tensor) -> Tensor:
    """[n, n] Euclidean distances of `points` [n, D] over the root of D, in float32."""
    points = points.float()
    # around their mean, where a difference of large squares loses least
    centred = points - points.mean(0)
    squares = centred.square().sum(-1)
    between = squares[:, None] + squares - 2 * gram(centred)
    between = between.clamp(min=0).fill_diagonal_(0)
    return (between / points.shape[-1]).sqrt()


def log_density(between: Tensor, neighbours: int) -> Tensor:
    """[n] the logarithm of how densely a point's `neighbours` nearest lie, itself among them: minus
    the mean of their squared distances.

    `between` [n, n] are distances. In logarithms, because at the norms of real projectors the
    density itself underflows to 0 for all points alike.
    """
    count = min(neighbours, len(between))
    return -between.square().topk(count, largest=False).values.mean(-1)


def separation(between: Tensor, density: Tensor) -> Tensor:
    """[n] the distance to the nearest denser point; the largest of all where none is denser.

    Of equally dense points the lower place is taken for the denser, where official codes add noise.
    """
    place = torch.arange(len(density), device=density.device)
    is_denser = density > density[:, None]  # [i, j]: whether j is denser than i
    is_before = (density == density[:, None]) & (place < place[:, None])
    nearest = between.masked_fill(~(is_denser | is_before), torch.inf).amin(-1)
    return torch.where(nearest.isinf(), between.max(), nearest)


def density_peaks(between: Tensor, count: int, neighbours: int) -> Tensor:
    """[count] places of the centres, those of the largest density x separation, best first.

    DPC-KNN (Du et al. 2016): `between` [n, n] are distances, the density that of the `neighbours`
    nearest points.
    """
    density = log_density(between, neighbours)
    return top(density + separation(between, density).log(), count)


def leaders(is_near: Tensor) -> Tensor:
    """[n] bool: which points, taken one after another, are near no leader before them.

    `is_near` [n, n] is symmetric, rows and columns in the order in which they are taken.
    """
    follows = is_near.triu(1)  # [i, j]: j comes behind i and is near it
    leads = torch.ones_like(follows[0])
    # what holds of the first k is final after k rounds, and mostly all of it long before
    for _ in range(len(follows)):
        leads_now = ~follows[leads].any(0)
        if torch.equal(leads_now, leads):
            break
        leads = leads_now
    return leads


def joined(between: Tensor, centres: Tensor) -> Tensor:
    """[n] the number of the centre that each point is nearest to; a centre is its own."""
    labels = between[:, centres].argmin(-1)
    labels[centres] = torch.arange(len(centres), device=labels.device)
    return labels


def means(points: Tensor, labels: Tensor, count: int) -> Tensor:
    """[count, D] per label 0..count - 1 the mean of the `points` [n, D] that bear it, in float32; 0
    where none does.
    """
    # a product, not index_add, whose sums differ from run to run on a GPU
    members = one_hot(labels, count).T.float()
    return members @ points.float() / members.sum(-1, keepdim=True).clamp(min=1)
