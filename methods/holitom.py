"""HoliTom (NeurIPS 2025): cut a video where most static tokens can be merged over time, cluster
these, keep of the others the most attended to; then merge once more inside the language model.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from prunebench import (
    INPUT,
    Budget,
    BudgetError,
    Choice,
    Clip,
    Keep,
    Reads,
    Signal,
    Stage,
    VideoPruner,
    VisualTokens,
    density_peaks,
    distances,
    exactly,
    joined,
    llm_at,
    means,
    register,
    solve,
    staged,
    top,
    top_of_each,
)

NEIGHBOURS = 7
"""Points whose distances make up a density."""

Window = tuple[int, int]
"""The first frame, and the one behind the last."""


@register(
    paper="https://arxiv.org/abs/2505.21334",
    code="https://github.com/cokeshao/HoliTom",
    variant="meets the budget exactly: its ratio is solved for, and what rounding leaves goes to "
    "the tokens most attended to (official: as many as the rounding of each window comes to); "
    "densities without noise; the context share, with which the code raises, is left out",
)
@dataclass(frozen=True)
class HoliTom(VideoPruner):
    """A token is static in a window of frames where each one's cosine to the next is above
    `threshold`; windows have the largest sum of static tokens x (frames - 1).

    Static tokens become their mean over the window, at their place in its first frame. Of n such
    n r are density peaks; each becomes `beta` x + (1 - beta) mean of those that join it. Of n
    others of a frame, n r most attended to in the block that the projector reads stay. r is solved
    for, unless `ratio` gives what is kept of all tokens, from which it follows.

    Before layer `layer` (a number, or a share of the depth: 18 of 28) the share `removed` is merged
    into the tokens most attended to by the last prompt token in the layer before, each into the
    nearest by cosine, one after another, x <- (x + y) / 2. Without `inside` that is left out.
    """

    threshold: float = 0.8
    longest: int = 1024
    beta: float = 0.6
    ratio: float | None = None
    inside: bool = True
    layer: int | float = 18 / 28
    removed: float = 0.5

    @property
    def reads(self) -> Reads:
        signals = {Signal.RECEIVED_ATTENTION}
        if self.inside:
            signals.add(Signal.LAST_QUERY_ATTENTION)
        return Reads(frozenset(signals), places={Signal.RECEIVED_ATTENTION: frozenset({INPUT})})

    def plan(self, budget: Budget | None, available: int, layers: int) -> tuple[Stage, ...]:
        if budget is None or not self.inside:
            return super().plan(budget, available, layers)
        sites = [INPUT, llm_at(self.layer, layers)]
        return solve(budget, sites, available, layers, staged(1 - self.removed))

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        if stage.site == INPUT:
            return super().prune(tokens, stage)
        index = top(inner_scores(tokens), stage.keep).sort().values
        return Keep(index, absorbed(tokens.features, index)[1])

    def explain(self, tokens: VisualTokens, stage: Stage) -> dict[str, Tensor]:
        if stage.site == INPUT:
            return super().explain(tokens, stage)
        scores = inner_scores(tokens)
        index = top(scores, stage.keep).sort().values
        return {"scores": scores, "assignment": absorbed(tokens.features, index)[0]}

    def choose(self, clip: Clip, count: int) -> Choice:
        features, received = clip.features, clip.received
        windows, is_static = self.windows(features)
        static = torch.tensor([int(is_static[first].sum()) for first, _ in windows])
        dynamic = (~is_static).sum(dim=1).cpu()
        lengths = torch.tensor([end - first for first, end in windows])
        reduced = (static * (lengths - 1)).sum()
        if self.ratio is None:
            share = largest_share(static, dynamic, count)
        else:
            share = min(self.ratio / (1 - int(reduced) / received.numel()), 1.0)
        peaks, rows = [], []
        for (first, end), number in zip(windows, (static * share).round().long(), strict=True):
            places, merged = self.clustered(features[first:end], is_static[first], int(number))
            peaks.append(first * received.shape[1] + places)
            rows.append(merged)
        salient = self.salient(received, is_static, (dynamic * share).ceil().long(), peaks, count)
        index, merged_rows = [], []
        for (first, end), of_window, merged in zip(windows, peaks, rows, strict=True):
            others = salient[first:end].flatten().nonzero()[:, 0] + first * received.shape[1]
            index += [of_window, others]
            merged_rows += [merged, features.flatten(0, 1)[others]]
        edges = torch.tensor([[first, end - 1] for first, end in windows])
        values = {"segments": edges, "static_reduced": reduced.float()[None]}
        return Choice(torch.cat(index), torch.cat(merged_rows), values)

    def windows(self, features: Tensor) -> tuple[list[Window], Tensor]:
        """The windows of `features` [F, n, D], and [F, n] bool what is static in them."""
        frames = len(features)
        is_alike = cosine_similarity(features[1:], features[:-1], dim=-1) > self.threshold
        counts = torch.zeros(frames, frames)
        for first in range(frames - 1):
            # [frames behind, n]: alike all the way from the first frame
            run = is_alike[first:].cumprod(dim=0)
            counts[first, first + 1 :] = run.sum(dim=1).cpu()
        windows = best_windows(counts, self.longest)
        is_static = torch.zeros_like(features[..., 0], dtype=torch.bool)
        for first, end in windows:
            if end - first > 1:
                is_static[first:end] = is_alike[first : end - 1].all(dim=0)
        return windows, is_static

    def clustered(self, window: Tensor, is_static: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """[count] places of the peaks among a window's static tokens, and [count, D] what they
        become.
        """
        places = is_static.nonzero()[:, 0]
        points = window[:, places].mean(dim=0)
        if count == 0:
            return places[:0], points[:0]
        between = distances(points)
        centres = density_peaks(between, count, NEIGHBOURS).sort().values
        labels = joined(between, centres)
        is_other = torch.ones_like(labels, dtype=torch.bool)
        is_other[centres] = False
        labels, others = labels[is_other], points[is_other]
        is_joined = torch.bincount(labels, minlength=count)[:, None] > 0
        mixed = self.beta * points[centres] + (1 - self.beta) * means(others, labels, count)
        return places[centres], torch.where(is_joined, mixed, points[centres])

    @staticmethod
    def salient(
        received: Tensor, is_static: Tensor, counts: Tensor, peaks: list[Tensor], count: int
    ) -> Tensor:
        """[F, n] bool: the tokens that stay as they are; with the peaks they are `count`."""
        frames, size = received.shape
        numbers = torch.arange(frames * size, device=received.device).view(frames, size)
        groups = [numbers[frame][~is_static[frame]] for frame in range(frames)]
        flat = received.flatten()
        index = top_of_each(flat, groups, counts.tolist())
        merged = torch.cat(peaks)
        if len(merged) > count:
            raise BudgetError(
                f"holitom.ratio makes {len(merged)} of static tokens where the budget allows "
                f"{count}; leave it out"
            )
        # what is static is no better than what is not, as long as there is any of that
        scores = flat - 2 * flat.max() * is_static.flatten()
        scores[merged] = torch.inf
        is_salient = torch.zeros_like(flat, dtype=torch.bool)
        is_salient[exactly(torch.cat([merged, index]), scores, count)] = True
        is_salient[merged] = False
        return is_salient.view(frames, size)


def best_windows(counts: Tensor, longest: int) -> list[Window]:
    """The windows of frames with the largest sum of `counts` x (frames - 1), none above `longest`;
    of equal ones the shorter last window.

    `counts` [F, F] are static tokens of the window from one frame to another.
    """
    frames = len(counts)
    lengths = torch.arange(frames) - torch.arange(frames)[:, None]
    gains = (counts * lengths).tolist()
    best, starts = [0.0], []
    for end in range(frames):
        value, start = -1.0, end
        for first in range(end, max(-1, end - longest), -1):
            own = best[first] + gains[first][end]
            if own > value:
                value, start = own, first
        best.append(value)
        starts.append(start)
    windows: list[Window] = []
    end = frames
    while end > 0:
        windows.insert(0, (starts[end - 1], end))
        end = starts[end - 1]
    return windows


def largest_share(static: Tensor, dynamic: Tensor, count: int) -> float:
    """The largest r in 0..1 with which windows' rounded and frames' rounded up shares sum to no
    more than `count`.
    """

    def total(share: float) -> int:
        return int((static * share).round().sum() + (dynamic * share).ceil().sum())

    low, high = 0.0, 1.0
    if total(high) <= count:
        return high
    for _ in range(50):  # halvings; a float tells no more apart
        middle = (low + high) / 2
        low, high = (middle, high) if total(middle) <= count else (low, middle)
    return low


def inner_scores(tokens: VisualTokens) -> Tensor:
    """[N] what the last prompt token paid in the layer before the site."""
    return tokens.last_query_attention.float().mean(dim=0)


def absorbed(features: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """[N] the place of the survivor that each dropped token joins, -1 for survivors; and [K, D]
    what the survivors `index`, ascending, become.

    Tokens join in their order, each halving what was there before: of m that join, the i-th has
    the weight 2^(i - m - 1) and the survivor itself 2^-m.
    """
    rows = features.float()
    unit = normalize(rows, dim=-1)
    is_dropped = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
    is_dropped[index] = False
    dropped = is_dropped.nonzero()[:, 0]
    labels = (unit[dropped] @ unit[index].T).argmax(dim=-1)
    counts = torch.bincount(labels, minlength=len(index))
    order = labels.argsort(stable=True)
    ends = counts.cumsum(0)[labels[order]]
    before_end = ends - torch.arange(len(order), device=order.device)  # 1 for the last to join
    weights = torch.zeros(len(index), len(dropped), device=rows.device)
    weights[labels[order], order] = 0.5 ** before_end.float()
    merged = 0.5 ** counts[:, None].float() * rows[index] + weights @ rows[dropped]
    assignment = torch.full_like(is_dropped, -1, dtype=torch.int64)
    assignment[dropped] = index[labels]
    return assignment, merged.to(features.dtype)
