"""PruneSID (ICLR 2026): group tokens by principal components, and keep of each group what is looked
at and not alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from prunebench import (
    Keep,
    Pruner,
    Reads,
    Signal,
    Stage,
    VisualTokens,
    attention_reads,
    attention_stand_ins,
    check_attention,
    encoder_attention,
    gram,
    leaders,
    quotas,
    register,
    require_finite,
    tile_places,
    top,
    with_newlines,
)

Parts = dict[str, Tensor]


@register(
    paper="https://arxiv.org/abs/2603.09480",
    code="https://github.com/ZhengyaoFang/PruneSID",
    variant=(
        "an exact decomposition, where official code draws a random one without a seed; no CLS row "
        "is handed on; tokens go on in reading order, unless order=given; every tile has its own "
        "groups; unpadding and newlines are the model's"
    ),
)
@dataclass(frozen=True)
class PruneSID(Pruner):
    """Per tile of T - 1 survivors, T with the CLS row of official code: the sigmoid of the
    encoder's features, less each token's mean, has T / 4 principal directions, and a token belongs
    to the one in which it weighs most.

    In a group the most attended token suppresses all whose cosine with it exceeds T / 32 times the
    mean of all pairs of the tile, and so on; those left over rank before the suppressed. Every
    group with members keeps one, and what is left is shared by how many are not suppressed, up to
    bounds of 5 ceil(T / 64), that many members and that many not suppressed, all of them raised
    until they suffice.

    Settings:

    - `order`: "given" hands tokens on group by group, as official code does; "raster" in reading
      order;
    - `attention`: see `attention_reads`.
    """

    default_positions = "compact"
    work_by_shape = True
    order: Literal["raster", "given"] = "raster"
    attention: str = "auto"

    def __post_init__(self) -> None:
        check_attention(self.attention)
        if self.order not in ("raster", "given"):
            raise ValueError(f"order is {self.order!r}; it is 'raster' or 'given'")

    @property
    def stand_ins(self) -> Mapping[Signal, Signal | None]:
        return attention_stand_ins(self.attention)

    @property
    def reads(self) -> Reads:
        return attention_reads(self.attention) | Reads(frozenset({Signal.ENCODER_FEATURES}))

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        """Group after group; raises ValueError for features or attention that are not finite."""
        parts = self.parts(tokens, stage.keep)
        picks = torch.cat([part["order"] for part in parts]) if parts else torch.arange(0)
        return Keep(with_newlines(tokens, picks, stage.keep), order=self.order)

    def parts(self, tokens: VisualTokens, count: int) -> list[Parts]:
        """What `select` gives of every tile that keeps something, with places of the sample."""
        attention = encoder_attention(tokens).mean(0).sum(0)
        features = tokens.encoder_features[0].float()
        require_finite(features, "encoder features")
        require_finite(attention, "attention")
        tiles = tile_places(tokens, newlines=False)
        parts = []
        for places, quota in zip(tiles, quotas(tiles, count), strict=True):
            if quota > 0:
                part = select(features[places], attention[places], quota)
                part["order"] = places[part["order"].to(places.device)]
                parts.append(part)
        return parts

    def explain(self, tokens: VisualTokens, stage: Stage) -> dict[str, Tensor]:
        """Numbers of every group, tile after tile."""
        parts = self.parts(tokens, stage.keep)
        joined = {}
        for name in ("group_sizes", "nms_counts", "group_budgets", "component"):
            joined[name] = torch.cat([part[name] for part in parts])
        return joined


def select(features: Tensor, attention: Tensor, count: int) -> Parts:
    """The picks among a tile's tokens (`order`), and per group its `group_sizes`, `nms_counts` (how
    many are not suppressed) and `group_budgets`; `component` [n] is each token's group.
    """
    total = count + 1  # official code counts its CLS row
    groups = min(max(1, total // 4), *features.shape)
    component = components(features, groups)
    is_first = unsuppressed(features, attention, component, total / 32)
    component, is_first, attention = component.cpu(), is_first.cpu(), attention.cpu()
    sizes = torch.bincount(component, minlength=groups)
    counts = torch.bincount(component[is_first], minlength=groups)
    shares = budgets(sizes, counts, total)
    # by group, those not suppressed first, each by attention
    ranked = top(attention, len(attention))
    ranked = ranked[(~is_first[ranked]).long().sort(stable=True).indices]
    ranked = ranked[component[ranked].sort(stable=True).indices]
    starts = sizes.cumsum(0) - sizes
    rank = torch.arange(len(ranked)) - starts[component[ranked]]
    return {
        "order": ranked[rank < shares[component[ranked]]],
        "group_sizes": sizes,
        "nms_counts": counts,
        "group_budgets": shares,
        "component": component,
    }


def components(features: Tensor, count: int) -> Tensor:
    """[n] which of the first `count` principal directions of features [n, C] each token weighs most
    in.
    """
    columns = features.sigmoid()
    columns = columns - columns.mean(1, keepdim=True)
    component: Tensor = directions(columns.double(), count).abs().argmax(1)
    return component


def directions(columns: Tensor, count: int) -> Tensor:
    """[n, count] the first left singular vectors of `columns` [n, C], in float64.

    From the smaller of the two Gram matrices, which takes a part of the time, where their singular
    values are large enough beside the first that squares keep half of the digits.
    """
    is_tall = len(columns) > columns.shape[1]
    squares, vectors = torch.linalg.eigh(gram(columns.T if is_tall else columns))
    squares, vectors = squares.flip(0)[:count], vectors.flip(1)[:, :count]
    if is_tall:
        # clamped, for rounding may have made small ones negative; those are not used
        vectors = columns @ vectors / squares.clamp(min=1e-300).sqrt()
    if squares[-1] <= 1e-8 * squares[0]:
        vectors = torch.linalg.svd(columns, full_matrices=False)[0][:, :count]
    left: Tensor = vectors
    return left


def unsuppressed(features: Tensor, attention: Tensor, component: Tensor, factor: float) -> Tensor:
    """[n] bool: whether no token that is left over, of the same group and more attended, has a
    cosine above `factor` times the mean.
    """
    unit = normalize(features, dim=-1)
    cosines = gram(unit)
    # of pairs of different tokens
    mean = cosines.fill_diagonal_(0).sum() / max(1, len(unit) * (len(unit) - 1))
    is_near = (cosines > factor * mean) & (component[:, None] == component)
    ranked = top(attention, len(attention)).to(is_near.device)
    is_left = torch.empty_like(is_near[0])
    is_left[ranked] = leaders(is_near[ranked][:, ranked])
    return is_left


def budgets(sizes: Tensor, counts: Tensor, total: int) -> Tensor:
    """[G] how many tokens each group keeps, `total` - 1 in all, by its members [G] and those not
    suppressed [G].
    """
    lower = sizes.clamp(max=1)
    upper = counts.minimum(sizes).clamp(max=5 * ceil(total / 64))
    while int(upper.sum()) < min(total, int(sizes.sum())):
        upper = (upper + 1).minimum(sizes)
    # groups come in the order of their variance: of more than can have one, the last have none
    lower = lower * (lower.cumsum(0) < total)
    rest = total - 1 - int(lower.sum())
    exact = rest * counts.double().cumsum(0) / max(1, int(counts.sum()))
    rounded = exact.round()  # half to even
    shares = rounded.diff(prepend=rounded.new_zeros(1)).long()
    shares = (lower + shares).minimum(upper)
    missing = total - 1 - int(shares.sum())
    while missing > 0:
        before = missing
        for group in top(counts, len(counts)).tolist():
            extra = min(missing, int(upper[group] - shares[group]))
            shares[group] += extra
            missing -= extra
        if missing == before:
            break
    return shares
