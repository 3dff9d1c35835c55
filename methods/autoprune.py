"""AutoPrune (NeurIPS 2025): drop tokens after every layer along a logistic curve, the steeper the
less question and image share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import ceil, exp
from typing import Self

import torch
from torch import Tensor

from prunebench import (
    Budget,
    Facts,
    Keep,
    Part,
    Pruner,
    Reads,
    Signal,
    Site,
    Stage,
    VisualTokens,
    attention_reads,
    attention_stand_ins,
    check_attention,
    cluster_count,
    encoder_attention,
    llm,
    melted,
    powers,
    register,
    solve,
    top,
    unmerged_count,
)

TOKENS = 576
"""Visual tokens of LLaVA-1.5, for which budgets are published."""

COUNTS = "autoprune counts"
"""In the memo: how many tokens stay as they are behind layers 1, 2, ..."""

EPSILON = 1e-6
"""Of logarithms and quotients, the official code's."""


@register(
    paper="https://arxiv.org/abs/2509.23931",
    code="https://github.com/AutoLab-SAI-SJTU/AutoPrune",
    variant="clusters without noise; merged tokens count in the budget; under a budget the curve "
    "has the slope `slope` for every sample, for what a run spends is planned before it; without "
    "one it is the sample's own",
)
@dataclass(frozen=True)
class AutoPrune(Pruner):
    """Behind layer 0 keep the tokens of high attention in the encoder and of high attention and
    mutual information with the text; behind every further layer those that the text attends to
    most, as many as a logistic curve says, and merge a part of the others as SparseVLM does.

    The score behind layer 0 is CLS attention + .3 (mutual information / Q) attention, averaged over
    heads, and over the Q rows of text behind the image. Mutual information is the sum over heads,
    rows and visual tokens of p log2(p / m), p the attention over Q, m the sum of p over the rows
    over Q. Behind layer l of L, .75 / (1 + exp(k (l - `centre` - k))) of the tokens stay, times the
    factor at which the tokens of all layers sum up to L times `tokens`; k is `slope`, or without a
    budget `steepness` - `gamma` times the information of layer 1, at least 0.

    Settings:

    - `tokens`: without a budget, the mean number of tokens a layer for an image of 576; others get
      the same share;
    - `centre`: of the curve, in layers of a model of 32; in others at the same share of the depth;
    - `attention`: see `attention_reads`.
    """

    default_positions = "compact"
    dynamic = True
    tokens: int = 64
    steepness: float = 0.4
    gamma: float = 0.2
    centre: float = 14.9
    slope: float = 0.3
    attention: str = "auto"
    depth: int = 32
    stateful: frozenset[int] = field(default=frozenset(), repr=False, compare=False)

    def __post_init__(self) -> None:
        check_attention(self.attention)
        if not 1 <= self.tokens <= 576:
            raise ValueError(f"tokens is {self.tokens}; it is 1..576, of 576")
        if self.slope < 0 or self.depth < 2:
            raise ValueError(f"slope is {self.slope} and depth {self.depth}; 0 and 2 or more")

    @property
    def stand_ins(self) -> Mapping[Signal, Signal]:
        return attention_stand_ins(self.attention)

    @property
    def reads(self) -> Reads:
        text = Reads(frozenset({Signal.TEXT_ATTENTION})).only_at(Part.LLM)
        return text | attention_reads(self.attention).only_at(self.site())

    @property
    def needs(self) -> frozenset[Signal]:
        return self.reads.signals

    def prepared(self, facts: Facts) -> Self:
        """The depth becomes the model's."""
        return replace(self, depth=facts.layers, stateful=facts.stateful)

    def site(self) -> Site:
        """Behind the first layer that attends."""
        first = min({*range(self.depth)} - self.stateful, default=0)
        return llm(before=first + 1)

    def plan(self, budget: Budget | None, available: int, layers: int) -> tuple[Stage, ...]:
        """Without a budget the stages behind layer 0 allow what that one leaves, and the sample's
        curve decides; else the shares of the curve of `slope`, to a power.
        """
        # nothing is seen of layers that do not attend, and nothing dropped behind them
        seams = [layer for layer in range(layers - 1) if layer not in self.stateful]
        sites = [llm(before=layer + 1) for layer in seams]
        if budget is None:
            most = self.most(available, self.mean(available))
            return tuple(Stage(site, most) for site in sites)
        target = budget.tokens(available)
        most = self.most(available, target)
        counts = self.curve(self.slope, most, target, layers)[0]
        ratios = [most / max(1, available)]
        for layer in seams[1:]:
            count = min(most, counts[layer - 1])
            rows = count + cluster_count(most - count)
            ratios.append(min(ratios[-1], rows / max(1, available)))
            most = rows
        stages = solve(budget, sites, available, layers, powers(ratios))
        # a stage that drops nothing would leave the count open
        falls = [stage for before, stage in pairwise(stages) if stage.keep < before.keep]
        return (stages[0], *falls)

    def mean(self, available: int) -> float:
        """How many of the tokens of an image are to leave a layer on average."""
        return self.tokens * available / TOKENS

    def most(self, available: int, mean: float) -> int:
        """How many layer 0 leaves."""
        return max(1, min(int(2.5 * mean), available))

    def curve(self, slope: float, most: int, mean: float, layers: int) -> tuple[list[int], Tensor]:
        """How many tokens stay as they are behind layers 1, 2, ... of which, with the merged ones,
        `mean` leave a layer on average; and the share of `most` that it comes from.
        """
        plain = []
        for layer in range(1, layers):
            place = layer * 32 / layers
            plain.append(0.75 / (1 + exp(slope * (place - self.centre - slope))))
        total, factor = round(layers * mean), 1.0
        low, high = 0.0, 20.0
        if abs(_spent(plain, factor, most) - total) > 1:
            for _ in range(200):
                factor = (low + high) / 2
                spent = _spent(plain, factor, most)
                if spent == total:
                    break
                low, high = (low, factor) if spent > total else (factor, high)
        shares = [min(1.0, factor * share) for share in plain]
        return _counts(plain, factor, most), torch.tensor(shares)

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        """The best behind layer 0; then the best and merged ones."""
        there = len(tokens)
        order = top(self.score(tokens), there)
        if tokens.site == self.site():
            return Keep(order[: stage.keep])
        if stage.keep < there:
            keep: Keep = melted(tokens, order, unmerged_count(there, stage.keep), stage.keep)
            return keep
        stay = min(there, int(self.own(tokens)["keep_counts"][tokens.site.layer - 2]))
        keep = melted(tokens, order, stay, stay + cluster_count(there - stay))
        return keep

    def own(self, tokens: VisualTokens) -> dict[str, Tensor]:
        """The sample's curve, made behind layer 1: `keep_counts`, `logistic`; `information` of the
        text with the image in that layer.
        """
        if COUNTS not in tokens.memo:
            information = shared(tokens.text_attention.float()).sum()
            slope = max(self.steepness - self.gamma * float(information), 0.0)
            mean = self.mean(len(tokens.layout))
            counts, shares = self.curve(slope, len(tokens), mean, self.depth)
            tokens.memo[COUNTS] = {
                "keep_counts": torch.tensor(counts),
                "logistic": shares,
                "information": information,
            }
        of_sample: dict[str, Tensor] = tokens.memo[COUNTS]
        return of_sample

    def score(self, tokens: VisualTokens) -> Tensor:
        """[N] what CLS and text paid behind layer 0, what the text paid behind others."""
        attention = tokens.text_attention.float()  # [H, Q, N]
        paid = attention.mean(dim=(0, 1))
        if tokens.site != self.site():
            return paid
        information = shared(attention).sum() / attention.shape[1]
        of_encoder = encoder_attention(tokens).mean(dim=(0, 1)).to(paid.device)
        return of_encoder + 0.3 * information * paid

    def explain(self, tokens: VisualTokens, stage: Stage) -> dict[str, Tensor]:
        """Scores and information behind layer 0; the sample's curve where it decides."""
        values = {"scores": self.score(tokens)}
        attention = tokens.text_attention.float()
        if tokens.site == self.site():
            return {**values, "information": shared(attention).sum() / attention.shape[1]}
        return {**values, **self.own(tokens)} if stage.keep >= len(tokens) else values


def shared(attention: Tensor) -> Tensor:
    """[H] mutual information of text and image, from what the rows of text pay the visual tokens,
    [H, Q, N].
    """
    rows = attention / attention.shape[1]
    average = rows.mean(dim=1, keepdim=True)
    return (rows * (rows / (average + EPSILON)).clamp(min=EPSILON).log2()).sum(dim=(1, 2))


def _counts(shares: list[float], factor: float, most: int) -> list[int]:
    return [min(most, ceil((most - 1) * min(1.0, factor * share))) for share in shares]


def _spent(shares: list[float], factor: float, most: int) -> int:
    """What leaves all layers, merged tokens among it."""
    total = alive = most
    for count in _counts(shares, factor, most):
        stay = min(count, alive)
        alive = stay + cluster_count(alive - stay)
        total += alive
    return total
