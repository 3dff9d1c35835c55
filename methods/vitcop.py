"""ViTCoP (AAAI 2026): drop what the encoder overlooks, merge clusters by the norms of their keys
early in the language model, and drop by these norms late.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

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
    VisualTokens,
    attention_reads,
    attention_stand_ins,
    check_attention,
    distances,
    encoder_attention,
    llm,
    powers,
    register,
    scaled_layer,
    solve,
    top,
)

CLUSTERS = "vitcop clusters"
"""In the memo: by original visual index the centre of its cluster, -1 where it was dropped."""

WIDTH = 8.0
"""Of the kernel that densities are made of, in units of the encoder's keys."""

REACH = 0.6
"""How far the token that another follows may lie, in sides of the grid."""


@register(
    paper="https://arxiv.org/abs/2601.17818",
    code="https://github.com/chaser682/ViTCoP",
    variant="position ids behind the deep stage stay what they were, where official code counts "
    "them anew within the shortened prompt; a token without a denser neighbour that is no centre "
    "joins the nearest one, not token 0; grids of any shape; budgets get powers of the shares",
)
@dataclass(frozen=True)
class ViTCoP(Pruner):
    """Behind the projector keep the patches of highest attention, before the first of `layers`
    merge them cluster by cluster, and before the second keep a fifth with the smallest key norms.

    Clusters are density peaks of the encoder's keys: `centres` of the tokens with the largest
    density x distance to a denser token at most .6 grid sides away; the others follow that token.
    In the language model a is the L2 norm of the key in the layer before, averaged over heads
    first. If fewer tokens may go on than there are clusters, those of the smallest sum of a become
    a row each, and all others one more. Else every cluster keeps a quota by its size, its smallest
    a, and the rest becomes a row. A row is the state of its middle member plus the mean of all: a
    sum, as official code has it.

    Settings:

    - `retained`: without a budget, the share of the tokens that enter a layer on average; the first
      stage keeps .2 + .9 of it, which are the published .5, .4 and .3 at 1/3, 2/9 and 1/9;
    - `layers`: of a model of `depth` layers; in others at the same shares of it;
    - `attention`: see `attention_reads`.
    """

    retained: float = 2 / 9
    layers: tuple[int, int] = (2, 22)
    depth: int = 32
    centres: float = 0.18
    attention: str = "auto"
    stateful: frozenset[int] = field(default=frozenset(), repr=False, compare=False)

    def __post_init__(self) -> None:
        check_attention(self.attention)
        first, second = self.layers
        if not 1 <= first < second < self.depth:
            raise ValueError(
                f"layers are {list(self.layers)}; two in 1..{self.depth - 1} that rise"
            )
        if not (0 < self.retained <= 1 and 0 < self.centres <= 1):
            raise ValueError(
                f"retained is {self.retained} and centres {self.centres}; both are shares in (0, 1]"
            )

    def prepared(self, facts: Facts) -> Self:
        """The layers that do not attend are noted."""
        return replace(self, stateful=facts.stateful)

    @property
    def stand_ins(self) -> Mapping[Signal, Signal]:
        return attention_stand_ins(self.attention)

    @property
    def reads(self) -> Reads:
        encoder = attention_reads(self.attention) | Reads(frozenset({Signal.ENCODER_KEYS}))
        return encoder.only_at(INPUT) | Reads(frozenset({Signal.KEYS})).only_at(Part.LLM)

    @property
    def needs(self) -> frozenset[Signal]:
        return self.reads.signals

    def site(self) -> Site:
        return INPUT

    def plan(self, budget: Budget | None, available: int, layers: int) -> tuple[Stage, ...]:
        """Three stages; two, where both layers meet in one."""
        first, second = (
            scaled_layer(layer, self.depth, layers, self.stateful) for layer in self.layers
        )
        sites = [INPUT, llm(before=first), llm(before=second)]
        share = self.retained if budget is None else budget.tokens(available) / max(1, available)
        ratios = [*self.ratios(min(1 / 3, max(1 / 9, share)) if budget else share)]
        if first == second:
            sites, ratios = [INPUT, llm(before=second)], [ratios[0], ratios[2]]
        if budget is None:
            counts = [max(1, round(ratio * available)) for ratio in ratios]
            return tuple(Stage(site, count) for site, count in zip(sites, counts, strict=True))
        return solve(budget, sites, available, layers, powers(ratios))

    def ratios(self, share: float) -> tuple[float, float, float]:
        """What the three stages leave where `share` of the tokens enters a layer on average."""
        first, second = self.layers
        encoder = min(1.0, 0.2 + 0.9 * share)
        # the deep stage keeps a fifth of what the shallow one leaves
        shallow = (self.depth * share - first * encoder) / (
            second - first + (self.depth - second) / 5
        )
        shallow = min(encoder, max(0.0, shallow))
        return encoder, shallow, shallow / 5

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        """The step of that stage; the deep one is the second inside the language model."""
        count = min(stage.keep, len(tokens))
        if stage.site == INPUT:
            return Keep(self.selected(tokens, count)["order"])
        norms = tokens.keys.float().mean(dim=0).norm(dim=-1)
        labels = tokens.memo.pop(CLUSTERS, None)
        if labels is None or count == len(tokens):
            return Keep(top(-norms, count))
        return merged(tokens, norms, labels[tokens.index].to(norms.device), count)

    def selected(self, tokens: VisualTokens, count: int) -> dict[str, Tensor]:
        """`order`: the tokens of highest attention; `keep_anchor`: centres among them; `component`:
        of each token kept, in reading order, the centre. Clusters go into the memo.
        """
        order = top(encoder_attention(tokens).mean(dim=(0, 1)), count)
        kept = order.sort().values
        keys = tokens.encoder_keys[0][:, kept].float().transpose(0, 1).flatten(1)
        between = (distances(keys).square() * keys.shape[1] + 1e-8).sqrt()
        near = _near(tokens, kept.cpu()).to(between.device)
        centres, parents = peaks(between, near, max(1, int(self.centres * len(kept))))
        component = tokens.index.to(kept.device)[kept][parents]
        labels = torch.full((len(tokens.layout),), -1)
        labels[tokens.index[kept.cpu()]] = component.cpu()
        tokens.memo[CLUSTERS] = labels
        return {
            "order": order,
            "keep_anchor": kept[centres].sort().values,
            "component": component,
        }

    def explain(self, tokens: VisualTokens, stage: Stage) -> dict[str, Tensor]:
        return self.selected(tokens, stage.keep) if stage.site == INPUT else {}


def peaks(between: Tensor, near: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """[count] centres, and [n] the centre that each point belongs to; `between` [n, n] are
    distances, `near` [n, n] says who may follow whom.
    """
    density = (-(between / WIDTH).square()).exp().sum(dim=1)
    eligible = (density > density[:, None]) & near
    closest = between.masked_fill(~eligible, torch.inf).min(dim=1)
    centres = top(density * closest.values, count)
    # official code leaves those that may follow nobody to token 0
    nearest = centres[between[:, centres].argmin(dim=1)]
    parents = torch.where(closest.values.isinf(), nearest, closest.indices)
    parents[centres] = centres
    for _ in range(len(between).bit_length()):
        parents = parents[parents]
    return centres, parents


def merged(tokens: VisualTokens, norms: Tensor, labels: Tensor, count: int) -> Keep:
    """[count] rows: per cluster the tokens that stay and one row of the others.

    `norms` [n] of the keys, `labels` [n] of the clusters.
    """
    _, cluster = labels.unique(return_inverse=True)
    total = int(cluster.max()) + 1
    sums = torch.zeros(total, dtype=torch.float64).index_add_(
        0, cluster.cpu(), norms.double().cpu()
    )
    rising = sums.sort(stable=True).indices
    if total > count:
        group = torch.full((total,), count - 1)
        group[rising[: count - 1]] = torch.arange(count - 1)
        stays = torch.zeros_like(labels, dtype=torch.bool)
        cluster = group.to(cluster.device)[cluster]
    else:
        quotas = shares(cluster.bincount(minlength=total).cpu(), rising, count)
        # within each cluster by rising norm, stable on both keys
        order = norms.sort(stable=True).indices
        order = order[cluster[order].sort(stable=True).indices]
        ordered = cluster[order]
        first = torch.searchsorted(ordered, ordered)
        rank = torch.arange(len(order), device=order.device) - first
        stays = torch.zeros_like(labels, dtype=torch.bool)
        stays[order] = rank < quotas.to(order.device)[ordered]
    rest = (~stays).nonzero()[:, 0]
    groups, sizes = cluster[rest].unique(return_inverse=True, return_counts=True)[1:]
    states = tokens.features.float()
    members = torch.nn.functional.one_hot(groups, len(sizes)).T.float()
    mean = members @ states[rest] / sizes[:, None]
    # reading order within a group; its middle member stands for it
    by_group = rest[groups.sort(stable=True).indices]
    middle = by_group[sizes.cumsum(0) - sizes + sizes // 2]
    kept = stays.nonzero()[:, 0]
    rows = torch.cat([states[kept], states[middle] + mean])
    return Keep(torch.cat([kept, middle]), rows.to(tokens.features.dtype))


def shares(sizes: Tensor, rising: Tensor, count: int) -> Tensor:
    """[K] how many tokens of each cluster stay beside the row of its others, `count` rows in all;
    `rising` is the order of the clusters by their sums.
    """
    total = len(sizes)
    room = sizes - 1
    quotas = (room / max(1, int(room.sum())) * (count - total)).round().long().minimum(room)
    missing = count - total - int(quotas.sum())
    step = 1 if missing > 0 else -1
    for cluster in (rising if missing > 0 else rising.flip(0)).repeat(abs(missing)).tolist():
        if missing == 0:
            break
        quota = int(quotas[cluster]) + step
        if 0 <= quota <= int(room[cluster]):
            quotas[cluster] = quota
            missing -= step
    return quotas


def _near(tokens: VisualTokens, places: Tensor) -> Tensor:
    """[n, n] bool: which of the tokens lie close to each other in one grid."""
    tile = tokens.tile[places]
    sides = torch.tensor([[max(1, tile.rows), max(1, tile.columns)] for tile in tokens.tiles])
    grid = torch.stack([tokens.row[places], tokens.column[places]], dim=1) / sides[tile]
    return (torch.cdist(grid, grid) <= REACH) & (tile[:, None] == tile)
