"""SparseVLM (ICML 2025): in stages keep what the telling words of the question attend to, and melt
a part of the rest into a few tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from prunebench import (
    INPUT,
    Budget,
    Facts,
    Keep,
    Part,
    Pruner,
    Reads,
    Signal,
    Site,
    Stage,
    Staircase,
    VisualTokens,
    cluster_count,
    melted,
    nearest_row,
    recycled_count,
    register,
    top,
    unmerged_count,
)

TOKENS = 576
"""Visual tokens of LLaVA-1.5, for which the tables are."""

LIKENESS = "sparsevlm likeness"
"""In the memo: [N, M] the products of visual tokens and text at the input."""


@register(
    paper="https://arxiv.org/abs/2410.04417",
    code="https://github.com/Gumpest/SparseVLMs",
    variant="clusters without the noise that official code adds to densities, which there decides "
    "between two of them; merged tokens count in the budget; budgets and depths without a table "
    "get the powers of the nearest row's shares",
)
@dataclass(frozen=True)
class SparseVLM(Pruner):
    """Behind each of `layers` rank by the attention that the raters paid there, averaged over heads
    and raters, and merge a part of the dropped tokens.

    Raters are the text rows behind the image for which softmax over the text of the products with
    the visual tokens, at the input and averaged over these, is above the mean. Of d dropped tokens
    the int(0.3 d) + 1 highest are clustered by density peaks into a tenth as many groups, whose
    means go on behind the kept ones and count as ordinary tokens from there on.

    Settings:

    - `layers`: in a model of `depth` layers, in others at the same shares of it;
    - `tokens`: without a budget, the row of the published table: 192, 128, 96 or 64 for 576 tokens,
      what leaves the layers on average, while more enter them.

    A merged token carries the index of its cluster's centre. Where so few may survive that the
    clusters alone would be more, they get half.
    """

    default_positions = "compact"
    work_by_shape = True
    table: ClassVar[Mapping[int, tuple[int, int, int]]] = {
        192: (300, 200, 110),
        128: (303, 110, 36),
        96: (238, 48, 26),
        64: (66, 30, 17),
    }
    layers: tuple[int, ...] = (2, 6, 15)
    depth: int = 32
    tokens: int = 192
    stateful: frozenset[int] = field(default=frozenset(), repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.tokens not in self.table:
            raise ValueError(f"tokens is {self.tokens}; the table has {sorted(self.table)}")
        self.staircase(self.tokens)  # raises for layers that do not fit

    def prepared(self, facts: Facts) -> Self:
        """The layers that do not attend are noted."""
        return replace(self, stateful=facts.stateful)

    @property
    def reads(self) -> Reads:
        text = Reads(frozenset({Signal.TEXT_FEATURES})).only_at(INPUT)
        return text | Reads(frozenset({Signal.TEXT_ATTENTION})).only_at(Part.LLM)

    @property
    def needs(self) -> frozenset[Signal]:
        return self.reads.signals

    def site(self) -> Site:
        """At the input the raters are chosen, and nothing is dropped."""
        return INPUT

    def plan(self, budget: Budget | None, available: int, layers: int) -> tuple[Stage, ...]:
        """The input, and the stages behind the layers."""
        row = self.tokens
        if budget is not None and available > 0:
            row = nearest_row(tuple(self.table), budget.tokens(available) / available * TOKENS)
        steps = self.staircase(row).scaled(layers, self.stateful)
        stages = steps.stages(available) if budget is None else steps.solved(budget, available)
        return (Stage(INPUT, available), *stages)

    def staircase(self, row: int) -> Staircase:
        """What a row of the table leaves of the visual tokens, merged ones among them."""
        alive, ratios = TOKENS, []
        for count in self.table[row]:
            kept = min(count, alive - 1)
            alive = kept + self.clusters(alive - kept)
            ratios.append(alive / TOKENS)
        return Staircase(tuple(layer + 1 for layer in self.layers), tuple(ratios), self.depth)

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        """The highest in the order in which they stand, and the merged ones behind them."""
        if stage.site == INPUT:
            # in float32, where products of half-precision states are exact
            text = tokens.text_features.float()
            tokens.memo[LIKENESS] = tokens.features.float() @ text.T
            return Keep(torch.arange(min(stage.keep, len(tokens))))
        order = self.order(tokens)
        return melted(tokens, order, self.kept(len(tokens), stage.keep), stage.keep)

    def kept(self, there: int, keep: int) -> int:
        """How many of `there` tokens stay as they are, where `keep` go on with the merged ones."""
        return unmerged_count(there, keep)

    def clusters(self, dropped: int) -> int:
        """Into how many tokens some of the dropped ones are merged."""
        return cluster_count(dropped)

    def order(self, tokens: VisualTokens) -> Tensor:
        """[N] places by descending score."""
        return top(self.score(tokens), len(tokens))

    def score(self, tokens: VisualTokens) -> Tensor:
        """[N] what the raters paid."""
        attention = tokens.text_attention.float().mean(dim=0)  # [Q, N]
        return attention[raters(tokens, len(attention))["raters"]].mean(dim=0)

    def explain(self, tokens: VisualTokens, stage: Stage) -> dict[str, Tensor]:
        """Scores and raters; `kept` and `recycled`, places by descending score; `merged` rows."""
        if stage.site == INPUT:
            return {}
        order = self.order(tokens)
        count = self.kept(len(tokens), stage.keep)
        rows = self.prune(tokens, stage).features
        return {
            "scores": self.score(tokens),
            "kept": order[:count],
            "recycled": order[count:][: recycled_count(len(tokens) - count)],
            "merged": tokens.features[:0] if rows is None else rows[count:],
            **raters(tokens, tokens.text_attention.shape[1]),
        }


def raters(tokens: VisualTokens, count: int) -> dict[str, Tensor]:
    """`rater_scores` [Q]: how much each of the last `count` text rows draws the visual tokens, on
    average over these; `raters`: the rows above the mean, all where none is.
    """
    likeness = tokens.memo[LIKENESS]
    scores = likeness[:, likeness.shape[1] - count :].softmax(dim=1).mean(dim=0)
    rows = (scores > scores.mean()).nonzero()[:, 0]
    every = torch.arange(count, device=scores.device)
    return {"rater_scores": scores, "raters": rows if len(rows) else every}
