"""TransPrune (CVPR 2026): keep the tokens that the layers turn most, and that the question looks
at.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from prunebench import (
    Budget,
    Facts,
    Reads,
    ScorePruner,
    Signal,
    Site,
    Stage,
    Staircase,
    VisualTokens,
    register,
    scaled_layer,
)

WEIGHTS = "transprune weights"
"""In the memo: by layer the weights [N] of the original visual tokens."""


@register(
    paper="https://arxiv.org/abs/2507.20630",
    code="https://github.com/liaolea/TransPrune",
    variant="budgets and other depths get powers of the published shares",
)
@dataclass(frozen=True)
class TransPrune(ScorePruner):
    """Score a token by its transition weight plus the attention of all text behind the image in the
    next layer, each over its sum.

    The weight of a layer is, for attention and feed-forward network, (|a| / |b|) exp(1 - cos(a, b))
    over the sum of the exponential over the prompt: b is the normalised input, a the output.
    Weights add up over `accumulating`, those of these layers that a token has been through.

    `layers` are layers behind which tokens leave, counted from 1, `accumulating` likewise, of a
    model of `depth` layers; in others they lie at the same shares of it. Without a budget `ratios`
    of the original tokens stay, as published.
    """

    default_positions = "compact"
    work_by_shape = True
    layers: tuple[int, ...] = (7, 9, 12)
    accumulating: tuple[int, ...] = (7, 8, 9, 10, 11, 12)
    ratios: tuple[float, ...] = (0.875, 0.625, 0.125)
    depth: int = 32

    def __post_init__(self) -> None:
        _ = self.staircase  # raises for settings that do not fit
        if not self.accumulating or not all(1 <= layer < self.depth for layer in self.accumulating):
            raise ValueError(
                f"accumulating is {list(self.accumulating)}; layers count from 1 to "
                f"{self.depth - 1} here"
            )

    def prepared(self, facts: Facts) -> Self:
        """Layers become those of the model."""
        if facts.layers == self.depth and not facts.stateful:
            return self
        accumulating = {
            scaled_layer(layer, self.depth, facts.layers, facts.stateful)
            for layer in self.accumulating
        }
        steps = self.staircase.scaled(facts.layers, facts.stateful, back=0)
        # a stage sees one layer that accumulates, at least, or there is none
        steps = steps.behind(min(accumulating))
        return replace(
            self,
            layers=steps.layers,
            ratios=steps.ratios,
            accumulating=tuple(sorted(accumulating)),
            depth=facts.layers,
        )

    @property
    def reads(self) -> Reads:
        signals = {Signal.TRANSITIONS, Signal.NEXT_TEXT_ATTENTION, Signal.VISUAL_PLACES}
        # the first stage needs a layer that has run, whatever accumulates
        layers = {min(self.layers[0], *self.accumulating), *self.accumulating}
        return Reads(
            frozenset(signals),
            layers={Signal.TRANSITIONS: tuple(sorted(layer - 1 for layer in layers))},
        )

    @property
    def needs(self) -> frozenset[Signal]:
        return self.reads.signals

    @property
    def staircase(self) -> Staircase:
        """What is published."""
        return Staircase(self.layers, self.ratios, self.depth)

    def site(self) -> Site:
        """The first of its sites, in a model of `depth` layers."""
        return self.staircase.stages(1)[0].site

    def plan(self, budget: Budget | None, available: int, layers: int) -> tuple[Stage, ...]:
        steps = self.staircase.scaled(layers)
        return steps.stages(available) if budget is None else steps.solved(budget, available)

    def score(self, tokens: VisualTokens) -> Tensor:
        """[N] both shares, added."""
        attention = tokens.next_text_attention.float().mean(dim=(0, 1))
        weights = self.weights(tokens).to(attention.device)
        return weights / weights.sum() + attention / attention.sum()

    def weights(self, tokens: VisualTokens) -> Tensor:
        """[N] the transition weights so far.

        Those of a layer are worked out at the first stage behind it, while all rows that went
        through it are there: the sum is over them.
        """
        layers = self.reads.layers_at(Signal.TRANSITIONS, tokens.site)
        of_layers = tokens.memo.setdefault(WEIGHTS, {})
        for layer, changes in zip(layers, tokens.transitions.float(), strict=True):
            if layer not in of_layers:
                ratio, cosine = changes.unbind(dim=-1)  # [2, S]
                turns = (1 - cosine).exp()
                weights = (ratio * turns / turns.sum(dim=1, keepdim=True)).sum(dim=0)
                own = weights.new_zeros(len(tokens.layout))
                own[tokens.index] = weights[tokens.visual_places.to(weights.device)]
                of_layers[layer] = own
        return torch.stack([of_layers[layer] for layer in layers]).sum(dim=0)[tokens.index]
