"""PruneVid (ACL Findings 2025): merge what stands still over time, cluster what is alike, and keep
what the question attends to.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from prunebench import (
    INPUT,
    Budget,
    Choice,
    Clip,
    Keep,
    Signal,
    Stage,
    VideoPruner,
    VisualTokens,
    density_peaks,
    distances,
    exactly,
    fill,
    joined,
    llm_at,
    means,
    register,
    solve,
    staged,
    top_of_each,
)

NEIGHBOURS = 7
"""Points whose distances make up a density."""

FEW = 14
"""Tokens of a group that are not clustered, as long as the budget allows."""

GROUPS = "prunevid"
"""The memo's name for the number of the group that each original token's row belongs to."""

Window = tuple[int, int]
"""The first frame, and the one behind the last."""


@register(
    paper="https://arxiv.org/abs/2412.16117",
    code="https://github.com/Visual-AI/PruneVid",
    variant="meets the budget exactly: the share of clusters is solved for, and where merging over "
    "time saves too much the least static tokens stay apart (official: half of the tokens of each "
    "group, whatever that comes to); nothing is static in a window of one frame (official: decided "
    "by a division by zero); densities without noise; position ids close up behind the inner "
    "stage, too (official: gaps stay)",
)
@dataclass(frozen=True)
class PruneVid(VideoPruner):
    """Frames are clustered by their mean tokens into `windows` x frames windows; a token is static
    in a window where its versions' mean cosine is above `threshold`.

    Static tokens become their mean over the window, at their place in its first frame. These, and
    the other tokens of every frame, are groups; in each, clusters around density peaks become
    their means. Groups of up to 14 tokens stay as they are while there is room; the others share
    the rest by size. `ratio` makes their share of clusters a fixed one, 0.5 in the paper: then as
    many tokens remain as it comes to, and no more than the budget.

    Before layer `layer` (a number, or a share of the depth: 11 of 32) the share `alpha` of every
    group stays, by the maximum of heads and text tokens of the attention in the layer before, and
    what the others lose leaves all caches. Without `inside` that is left out.

    `order` "given" hands the rows over as the code does, per window its static tokens, then its
    frames, best centres first; "raster" in reading order.
    """

    default_positions = "compact"
    windows: float = 0.25
    threshold: float = 0.8
    ratio: float | None = None
    inside: bool = True
    layer: int | float = 11 / 32
    alpha: float = 0.4
    order: Literal["given", "raster"] = "given"

    @property
    def dynamic(self) -> bool:  # type: ignore[override]  # a constant of other methods
        return self.ratio is not None

    @property
    def needs(self) -> frozenset[Signal]:
        return frozenset({Signal.TEXT_ATTENTION} if self.inside else ())

    def plan(self, budget: Budget | None, available: int, layers: int) -> tuple[Stage, ...]:
        """Both stages; without a budget as many tokens as `ratio` and `alpha` come to."""
        if not self.inside:
            if budget is None and self.ratio is not None:
                return (Stage(INPUT, available),)
            return super().plan(budget, available, layers)
        sites = [INPUT, llm_at(self.layer, layers)]
        if budget is None:
            if self.ratio is None:
                return super().plan(budget, available, layers)
            inner = int(self.alpha * self.ratio * available)
            return Stage(INPUT, available), Stage(sites[1], max(1, inner), compact=True)
        return solve(budget, sites, available, layers, staged(self.alpha), compact=True)

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        if stage.site == INPUT:
            return replace(super().prune(tokens, stage), order=self.order)
        return Keep(self.attended(tokens, stage.keep))

    def explain(self, tokens: VisualTokens, stage: Stage) -> dict[str, Tensor]:
        if stage.site == INPUT:
            return super().explain(tokens, stage)
        return {"scores": question_scores(tokens)}

    def choose(self, clip: Clip, count: int) -> Choice:
        features = clip.features
        windows = self.cut(features)
        places, points = self.groups(features, windows, count)
        counts = self.counts(torch.tensor([len(group) for group in places]), count)
        index, rows = [], []
        for group, group_points, number in zip(places, points, counts.tolist(), strict=True):
            centres, merged = clustered(group_points, number)
            index.append(group[centres])
            rows.append(merged)
        note(clip, index)
        lengths = torch.tensor([end - first for first, end in windows])
        # a window's static tokens come before its frames'
        static = counts[torch.cumsum(1 + lengths, 0) - 1 - lengths]
        of_window = torch.arange(len(windows)).repeat_interleave(1 + lengths)
        totals = torch.zeros_like(static).index_add(0, of_window, counts)
        values = {
            "segment_lengths": lengths,
            "static_sizes": static,
            "dynamic_sizes": totals - static,
        }
        return Choice(torch.cat(index), torch.cat(rows), values)

    def cut(self, features: Tensor) -> list[Window]:
        """The windows of a video's frames."""
        frames = len(features)
        between = distances(features.mean(dim=1))
        centres = density_peaks(between, max(1, int(self.windows * frames)), NEIGHBOURS)
        return runs(joined(between, centres).tolist())

    def groups(
        self, features: Tensor, windows: list[Window], count: int
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The places and the features of the groups: per window its static tokens, then those of
        its frames.
        """
        frames, size, _ = features.shape
        numbers = torch.arange(frames * size, device=features.device).view(frames, size)
        places, points = [], []
        is_static = self.static(features, windows, frames * size - count)
        for (first, end), is_still in zip(windows, is_static, strict=True):
            places.append(numbers[first, is_still])
            points.append(features[first:end, is_still].mean(dim=0))
            for frame in range(first, end):
                places.append(numbers[frame, ~is_still])
                points.append(features[frame, ~is_still])
        return places, points

    def static(self, features: Tensor, windows: list[Window], most: int) -> Tensor:
        """[windows, n] bool: what is static in each window; without `ratio` the most static alone
        where all of it would save more than `most` tokens.
        """
        unit = normalize(features, dim=-1)
        stillness = torch.full_like(unit[: len(windows), :, 0], -torch.inf)
        for number, (first, end) in enumerate(windows):
            length = end - first
            if length > 1:
                # the square of a sum holds every pair twice, and each of the frames with itself
                squares = unit[first:end].sum(dim=0).square().sum(dim=-1)
                stillness[number] = (squares - length) / (length * (length - 1))
        is_static = stillness > self.threshold
        saved = torch.tensor([end - first - 1 for first, end in windows], device=unit.device)
        order = stillness.flatten().argsort(descending=True, stable=True)
        total = (is_static * saved[:, None]).flatten()[order].cumsum(0)
        if self.ratio is None:
            is_static.view(-1)[order[total > most]] = False
        return is_static

    def counts(self, sizes: Tensor, count: int) -> Tensor:
        """[groups] how many tokens of each remain."""
        is_large = sizes > FEW
        if self.ratio is not None:
            counts = torch.where(is_large, (sizes * self.ratio).long(), sizes)
            if int(counts.sum()) <= count:
                return counts
        counts = torch.where(is_large, 1, sizes)
        room = count - int(counts.sum())
        if room < 0:
            return torch.tensor(fill(count, sizes, sizes))
        return counts + torch.tensor(fill(room, sizes * is_large, sizes - counts))

    def attended(self, tokens: VisualTokens, count: int) -> Tensor:
        """[count] places, ascending: of every group those that the question attends to most; with
        `ratio` no more than `alpha` comes to.
        """
        scores = question_scores(tokens)
        numbers = tokens.memo.get(GROUPS, tokens.layout.tile)[tokens.index]
        kinds, sizes = numbers.unique(return_counts=True)
        alone = (sizes * self.alpha).long()
        if self.ratio is not None:
            count = min(count, int(alone.sum()))
        # the paper's share where it is what the stage rounds from
        is_own = int(alone.sum()) <= count <= self.alpha * len(tokens)
        counts = alone if is_own else sizes * count // len(tokens)
        groups = [(numbers == kind).nonzero()[:, 0] for kind in kinds]
        index = top_of_each(scores, groups, counts.tolist())
        return exactly(index, scores, count).sort().values


def question_scores(tokens: VisualTokens) -> Tensor:
    """[N] the most that any head of any text token behind the image paid."""
    return tokens.text_attention.float().amax(dim=(0, 1))


def clustered(points: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """[count] centres among the points [n, D], best first, and [count, D] the means of what joins
    them; all points as they are, in their order, where they are that many.
    """
    if count == len(points):
        return torch.arange(count, device=points.device), points
    if count == 0:
        return torch.arange(0, device=points.device), points[:0]
    between = distances(points)
    centres = density_peaks(between, count, NEIGHBOURS)
    return centres, means(points, joined(between, centres), count)


def runs(labels: list[int]) -> list[Window]:
    """The windows that labels of frames make.

    Of a label its longest run stays, the first of equals, where that is no single frame; what is
    left over joins the longer neighbour, the earlier of equals.
    """
    edges = [0] + [i for i in range(1, len(labels)) if labels[i] != labels[i - 1]] + [len(labels)]
    longest: dict[int, Window] = {}
    for first, end in pairwise(edges):
        before = longest.get(labels[first], (0, 0))
        if end - first > before[1] - before[0]:
            longest[labels[first]] = first, end
    stays = sorted(run for run in longest.values() if run[1] - run[0] > 1)
    if not stays:
        return [(0, len(labels))]
    cuts = [0]
    for before, behind in pairwise(stays):
        is_left = before[1] - before[0] >= behind[1] - behind[0]
        cuts.append(behind[0] if is_left else before[1])
    return list(pairwise([*cuts, len(labels)]))


def note(clip: Clip, groups: list[Tensor]) -> None:
    """Leave in the memo which group the rows that stay belong to."""
    tokens = clip.tokens
    numbers = tokens.memo.get(GROUPS, torch.full([len(tokens.layout)], -1)).clone()
    number = int(numbers.max()) + 1
    for group in groups:
        numbers[tokens.index[clip.places.flatten()[group].cpu()]] = number
        number += 1
    tokens.memo[GROUPS] = numbers
