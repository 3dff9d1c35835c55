"""TokenCarve (2025): rank visual tokens by attention and by what they add to the rank of the
states, and merge the lower half of the best into the upper.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from prunebench import (
    Budget,
    Keep,
    Pruner,
    Signal,
    Site,
    Stage,
    VisualTokens,
    gram,
    llm,
    register,
    require_finite,
    solve,
    top,
)


@register(
    paper="https://arxiv.org/abs/2503.10501",
    code="https://github.com/ShawnTan86/TokenCarve",
    variant="exact decomposition of the Gram matrix, which more tokens than channels do not stop; "
    "ties of the rank sum go to the lower place; how many are ranked for one that stays is ours",
)
@dataclass(frozen=True)
class TokenCarve(Pruner):
    """Before layer `layer` keep the tokens of the largest `weight` * attention rank + (1 -
    `weight`) * information rank, `ranked` for each that may stay, and merge the surplus.

    Attention is what the last prompt token paid in the layer before, averaged over heads;
    information is sum_k |U_jk| S_k of the singular value decomposition U S V' of the states. The
    upper half of the ranked ones are targets; of the lower half those closest by cosine to their
    best target are merged into it, plain means, and the others stay. The caches of the layers
    before are cut to the survivors, too.

    The official code is given both counts; `ranked`, in 1..2, is ours. At the official `weight` of
    1/2 rank sums tie often, which it leaves to the backend.
    """

    needs = frozenset({Signal.LAST_QUERY_ATTENTION})
    default_positions = "compact"
    work_by_shape = True
    layer: int = 2
    weight: float = 0.5
    ranked: float = 1.5

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise ValueError(f"weight is {self.weight}; it lies in 0..1")
        if not 1 <= self.ranked <= 2:
            raise ValueError(
                f"ranked is {self.ranked}; it lies in 1..2, for only the lower half is merged"
            )

    def site(self) -> Site:
        return llm(before=self.layer)

    def plan(self, budget: Budget | None, available: int, layers: int) -> tuple[Stage, ...]:
        """One stage that cuts the caches before it; raises BudgetError without a budget."""
        if budget is None:
            return super().plan(budget, available, layers)
        return solve(budget, [self.site()], available, layers, compact=True)

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        """The targets with what joined them, and the sources that stay."""
        values = self.explain(tokens, stage)
        source, target = values["merge_source"], values["merge_target"]
        survives = torch.zeros(len(tokens), dtype=torch.bool, device=source.device)
        survives[values["order"]] = True
        survives[source] = False
        sums = tokens.features.float().index_add(0, target, tokens.features[source].float())
        counts = torch.bincount(target, minlength=len(tokens)) + 1
        index = survives.nonzero()[:, 0]
        merged = sums[index] / counts[index, None]
        return Keep(index, merged.to(tokens.features.dtype))

    def explain(self, tokens: VisualTokens, stage: Stage) -> dict[str, Tensor]:
        """`order`: the ranked tokens, best first; `merge_source`, `merge_target`: the pairs that
        merge, the most similar first.
        """
        keep = min(stage.keep, len(tokens))
        # what is merged must fit into the lower half
        count = min(len(tokens), 2 * keep, max(keep, round(self.ranked * keep)))
        order = top(self.score(tokens), count)
        half = (count + 1) // 2
        targets, sources = order[:half], order[half:]
        unit = normalize(tokens.features.float(), dim=-1)
        closest = (unit[sources] @ unit[targets].T).max(dim=1)
        pairs = top(closest.values, count - keep)
        return {
            "order": order,
            "merge_source": sources[pairs],
            "merge_target": targets[closest.indices[pairs]],
        }

    def score(self, tokens: VisualTokens) -> Tensor:
        """[N] the weighted sum of both ranks, counted from below."""
        attention = tokens.last_query_attention.float().mean(dim=0)
        by_attention = _ranks(attention.to(tokens.features.device))
        by_information = _ranks(information(tokens.features))
        return self.weight * by_attention + (1 - self.weight) * by_information


def information(features: Tensor) -> Tensor:
    """[N] sum_k |U_jk| S_k of the decomposition U S V' of `features` [N, D].

    From the smaller of the two Gram matrices, in double precision, for a product halves the digits.
    """
    require_finite(features, "features")
    states = features.double()
    if len(states) <= states.shape[1]:
        squares, left = torch.linalg.eigh(gram(states))
        shares: Tensor = (left.abs() * squares.clamp(min=0).sqrt()).sum(dim=1)
        return shares
    right = torch.linalg.eigh(gram(states.T)).eigenvectors
    lengths: Tensor = (states @ right).abs().sum(dim=1)
    return lengths


def _ranks(values: Tensor) -> Tensor:
    """[N] in double precision: how many tokens rank behind each, of equal ones the higher place."""
    order = top(values, len(values))
    ranks = torch.empty(len(values), dtype=torch.float64, device=values.device)
    ranks[order] = torch.arange(len(values) - 1, -1, -1, dtype=torch.float64, device=values.device)
    return ranks
