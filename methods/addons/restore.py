"""RESTORE (ICML 2026): merge what a pruner drops into half of the budget, and let positions and
attention look as if nothing were missing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

from prunebench import (
    INPUT,
    AddOn,
    Budget,
    Keep,
    Stage,
    Unsupported,
    VisualTokens,
    register,
    require_finite,
    top,
)

FREQUENCIES, BASE = 64, 10_000.0
"""Of the distance term, whatever rotary embedding the model has."""


@dataclass(frozen=True)
class Clusters:
    """What becomes of N tokens: `anchors` [T], the token that each row stands for, and `assignment`
    [N], the row that each token goes into, -1 for none.

    Rows stand in the order of their first member.
    """

    anchors: Tensor
    assignment: Tensor

    @property
    def sizes(self) -> Tensor:
        """[T] members of each row."""
        return torch.bincount(self.assignment[self.assignment >= 0], minlength=len(self.anchors))

    @property
    def medians(self) -> Tensor:
        """[T] the lower median of each row's members."""
        # by row and then by place: a stable sort of the places
        order = self.assignment.argsort(stable=True)[int((self.assignment < 0).sum()) :]
        starts = self.sizes.cumsum(0) - self.sizes
        return order[starts + (self.sizes - 1) // 2]


@register(
    paper="https://arxiv.org/abs/2606.01711",
    code="https://github.com/cvlab-yonsei/RESTORE",
    variant="clusters keep to one image; where position ids have several axes the distance term is "
    "their mean; distances have no upper end",
)
@dataclass(frozen=True)
class Restore(AddOn):
    """The base keeps `share` of the rows; the others are means of what it drops, around anchors.

    Of the n dropped, rho_i is the sum of its cosines to all of them, and rho_i (1 - b_i) its score,
    b_i the largest cosine to a less dense one. The highest are anchors; every other dropped token
    joins the one of largest cosine in its image. A row goes on at the lower median of its members.

    All attention scores get log(2 - g(distance)) while the prompt is read, g the mean of 64 rotary
    cosines, and a row's key the log of its size, in the first layer that of all rows' mean size.

    Written from a description of the official code, which is GPL. There every prompt has one image;
    a dropped token of an image without an anchor goes into no row here.
    """

    share: float = 0.5
    work_by_shape = True

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share is {self.share}; it lies in (0, 1]")
        if self.base.site() != INPUT:
            raise ValueError(f"it merges at {INPUT}, and its base prunes at {self.base.site()}")

    def plan(self, budget: Budget | None, available: int, layers: int) -> tuple[Stage, ...]:
        """The base's one stage; raises Unsupported where it has another, BudgetError as it does."""
        stages = tuple(self.base.plan(budget, available, layers))
        if [stage.site for stage in stages] != [INPUT]:
            raise Unsupported(f"it merges at {INPUT}, and its base has {len(stages)} stages")
        return stages

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        require_finite(tokens.features, "features")
        base_rows = self.base_keep(tokens, stage)
        clusters = self.clusters(tokens, base_rows.index.cpu(), min(stage.keep, len(tokens)))
        rows = merged(tokens.features, clusters, base_rows)
        medians, order = clusters.medians.sort()
        sizes = clusters.sizes[order].float()
        mean_size = torch.full_like(sizes, len(tokens) / len(sizes))
        return Keep(
            clusters.anchors[order],
            rows[order.to(rows.device)],
            bias=torch.stack([mean_size, sizes]).log(),
            order="given",
            places=tokens.index[medians],
            pair_bias=distance_bias,
        )

    def base_keep(self, tokens: VisualTokens, stage: Stage) -> Keep:
        """What the base keeps with its part of the rows; raises ValueError where it does more than
        choose and merge.
        """
        count = max(1, int(self.share * min(stage.keep, len(tokens))))
        keep = self.base.prune(tokens, replace(stage, keep=count))
        if keep.bias is not None or keep.places is not None or keep.pair_bias is not None:
            raise ValueError("restore gives biases and places itself; its base gives some, too")
        return keep

    def clusters(self, tokens: VisualTokens, index: Tensor, count: int) -> Clusters:
        """`count` rows around the tokens `index` [P] that the base kept and anchors of the rest."""
        alone = torch.ones(len(tokens), dtype=torch.bool)
        alone[index] = False
        dropped = alone.nonzero()[:, 0]
        anchors = index
        assignment = torch.full((len(tokens),), -1)
        assignment[index] = torch.arange(len(index))
        if len(dropped) and count > len(index):
            unit = normalize(tokens.features[dropped.to(tokens.features.device)].float(), dim=-1)
            cosine = (unit @ unit.T).cpu()
            picks = top(distinctiveness(cosine), count - len(index))
            images = torch.tensor([tile.image for tile in tokens.tiles])[tokens.tile[dropped]]
            apart = images[:, None] != images[picks]
            similarity = cosine[:, picks].masked_fill(apart, -torch.inf)
            nearest = similarity.argmax(dim=1)
            nearest[similarity.amax(dim=1).isinf()] = -1 - len(index)
            # an anchor is in its own row, whatever equals it
            nearest[picks] = torch.arange(len(picks))
            assignment[dropped] = len(index) + nearest
            anchors = torch.cat([index, dropped[picks]])
        return ordered(anchors, assignment)

    def explain(self, tokens: VisualTokens, stage: Stage) -> dict[str, Tensor]:
        """The clusters, their rows in the order of the first member."""
        base_rows = self.base_keep(tokens, stage)
        index = base_rows.index.cpu()
        clusters = self.clusters(tokens, index, min(stage.keep, len(tokens)))
        return {
            "assignment": clusters.assignment,
            "keep_anchor": clusters.anchors[~torch.isin(clusters.anchors, index)].sort().values,
            "median_index": clusters.medians,
            "output_sizes": clusters.sizes,
            "merged_features": merged(tokens.features, clusters, base_rows),
        }


def distinctiveness(cosine: Tensor) -> Tensor:
    """[n] the score of tokens with these cosines [n, n]: dense, and unlike all that are less so."""
    density = cosine.sum(dim=1)
    sparser = density < density[:, None]
    likeness = cosine.masked_fill(~sparser, -torch.inf).amax(dim=1)
    return density * (1 - likeness.where(sparser.any(dim=1), 0.0))


def ordered(anchors: Tensor, assignment: Tensor) -> Clusters:
    """The clusters with their rows in the order of the first member."""
    places = torch.arange(len(assignment)).masked_fill(assignment < 0, len(assignment))
    first = torch.full((len(anchors) + 1,), len(assignment))
    first = first.scatter_reduce(0, assignment.clamp(min=-1) % len(first), places, "amin")[:-1]
    order = first.argsort()
    ranks = torch.full((len(anchors) + 1,), -1)
    ranks[order] = torch.arange(len(order))
    return Clusters(anchors[order], ranks[assignment])


def merged(features: Tensor, clusters: Clusters, base_rows: Keep) -> Tensor:
    """[T, D] the plain mean of each row's members; of rows that the base made, as it made them."""
    device = features.device
    inside = (clusters.assignment >= 0).nonzero()[:, 0].to(device)
    rows = clusters.assignment.to(device)[inside]
    sums = torch.zeros(len(clusters.anchors), features.shape[1], device=device)
    sums = sums.index_add(0, rows, features[inside].float())
    means = (sums / clusters.sizes.to(device)[:, None]).to(features)
    if base_rows.features is None:
        return means
    return means.index_copy(
        0, clusters.assignment[base_rows.index.cpu()].to(device), base_rows.features
    )


def distance_bias(distances: Tensor) -> Tensor:
    """[n, n] log(2 - g) of distances [P, n, n], g the mean over frequencies, and over axes."""
    steps = distances.abs().long()
    far = torch.arange(int(steps.max()) + 1, device=distances.device)
    power = torch.arange(FREQUENCIES, device=distances.device) / FREQUENCIES
    waves = torch.cos(far[:, None] * BASE**-power).mean(dim=1)
    return torch.log(2 - waves[steps].mean(dim=0))
