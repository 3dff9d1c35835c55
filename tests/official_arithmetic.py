"""Official arithmetic: what a method's authors compute, step by step and with no step saved, to
time a selection beside and to compare its picks with.

Written from the published descriptions, for one image or tile of N tokens; no official code is in
here. Where a description leaves a step open the cheaper one is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import ceil, sqrt
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from prunebench import VisualTokens

Select = Callable[[VisualTokens, int], Tensor]
"""(tokens, count) -> the places of the tokens that stay, in any order."""


@dataclass(frozen=True)
class Official:
    """What the authors of a method compute, and the `settings` that make ours the same method.

    `is_exact` says that the picks are the same: not so where official code draws at random.
    """

    select: Select
    settings: Mapping[str, Any] = field(default_factory=dict)
    is_exact: bool = True


OFFICIAL: dict[str, Official] = {}
"""By the method's name."""


def official(name: str, *, is_exact: bool = True, **settings: Any) -> Callable[[Select], Select]:
    """Put a function down as the official arithmetic of a method."""

    def put(select: Select) -> Select:
        OFFICIAL[name] = Official(select, settings, is_exact)
        return select

    return put


def cosines(rows: Tensor) -> Tensor:
    """[n, n] of rows [n, D]."""
    unit = normalize(rows.float(), dim=-1)
    return unit @ unit.T


def scaled(values: Tensor, above: float = 1e-6, below: float = 1e-6) -> Tensor:
    """Values by their least and largest."""
    return (values - values.min() + above) / (values.max() - values.min() + below)


@official("divprune")
def divprune(tokens: VisualTokens, count: int) -> Tensor:
    """The token farthest from its nearest other, then argmax_j min_{i in S} D_ij, over all of S in
    every step.
    """
    distance = 1 - cosines(tokens.features)
    picks = [int(distance.topk(2, dim=0, largest=False).values[1].argmax())]
    for _ in range(count - 1):
        picks.append(int(distance[picks].amin(0).argmax()))
    return torch.tensor(picks)


@official("resprune", nouns="none")
def resprune(tokens: VisualTokens, count: int) -> Tensor:
    """Pivoted Cholesky columns, each from a product of all tokens with the pivot."""
    vectors = tokens.features.float()
    energy = vectors.square().sum(1)
    factor = vectors.new_zeros(len(vectors), count)
    picks: list[int] = []
    for number in range(count):
        pick = int(energy.argmax())
        column = vectors @ vectors[pick] - factor[:, :number] @ factor[pick, :number]
        factor[:, number] = column / energy[pick].sqrt()
        energy = (energy - factor[:, number].square()).clamp(min=0)
        energy[pick] = -1
        picks.append(pick)
    return torch.tensor(picks)


@official("cdpruner")
def cdpruner(tokens: VisualTokens, count: int) -> Tensor:
    """Greedy maximum of a determinantal point process with the whole kernel r cos r."""
    patches = normalize(tokens.clip_patches.float(), dim=-1)
    texts = normalize(tokens.clip_text.float(), dim=-1)
    relevance = scaled(-(patches @ texts.T).mean(1), below=0)
    kernel = relevance[:, None] * cosines(tokens.features) * relevance
    variance = kernel.diagonal().clone()
    factor = kernel.new_zeros(count, len(kernel))
    picks: list[int] = []
    for number in range(count):
        pick = int(variance.argmax())
        spanned = torch.einsum("t,tn->n", factor[:number, pick], factor[:number])
        factor[number] = (kernel[pick] - spanned) / variance[pick].sqrt()
        variance = variance - factor[number].square()
        variance[pick] = -torch.inf
        picks.append(pick)
    return torch.tensor(picks)


@official("vispruner")
def vispruner(tokens: VisualTokens, count: int) -> Tensor:
    """Half by attention; of the others the eight even ones most like any odd one leave in every
    round, by products of the features that are left.
    """
    ranked = tokens.cls_attention[0].float().mean(0).argsort(descending=True)
    important = count // 2
    features = normalize(tokens.encoder_features[0].float(), dim=-1)
    rest = ranked[important:]
    while len(rest) > count - important:
        even, odd = rest[::2], rest[1::2]
        closest = (features[even] @ features[odd].T).amax(1)
        leaving = min(8, len(rest) - (count - important))
        rest = torch.cat([even[closest.argsort(descending=True)[leaving:]], odd])
    return torch.cat([ranked[:important], rest])


@official("idpruner", weights="none")
def idpruner(tokens: VisualTokens, count: int) -> Tensor:
    """argmax of half the importance less half the largest cosine with those taken, from the whole
    matrix of cosines.
    """
    importance = scaled(tokens.cls_attention[0].float().mean(0), above=0)
    similarity = cosines(tokens.features)
    pick = int(importance.argmax())
    picks, closest = [pick], similarity[:, pick].clone()
    is_taken = torch.zeros_like(importance, dtype=torch.bool)
    for _ in range(count - 1):
        is_taken[pick] = True
        values = 0.5 * importance - 0.5 * closest
        pick = int(values.masked_fill(is_taken, -torch.inf).argmax())
        closest = torch.maximum(closest, similarity[:, pick])
        picks.append(pick)
    return torch.tensor(picks)


def covered(rows: Tensor, gains: Tensor | float, count: int, weights: Tensor | float = 1) -> Tensor:
    """argmax_j gains_j sum_r weights_r max(0, rows_rj - c_r), the whole sum in every step."""
    covers = torch.zeros_like(rows[:, :1])
    is_taken = torch.zeros_like(rows[0], dtype=torch.bool)
    picks = []
    for _ in range(count):
        values = ((rows - covers).clamp(min=0) * weights).sum(0) * gains
        pick = int(values.masked_fill(is_taken, -torch.inf).argmax())
        is_taken[pick] = True
        covers = torch.maximum(covers, rows[:, pick : pick + 1])
        picks.append(pick)
    return torch.tensor(picks)


@official("mmtok", words="all")
def mmtok(tokens: VisualTokens, count: int) -> Tensor:
    """Coverage of the question's words and of the image's tokens."""
    text = normalize(tokens.text_features.float(), dim=-1)
    image = normalize(tokens.features.float(), dim=-1)
    words = (text @ image.T / 0.02).softmax(-1) / len(text)
    parts = (cosines(tokens.encoder_features[0]) / 0.2).softmax(-1) / len(image)
    return covered(torch.cat([words, 0.5 * parts]), 1, count)


@official("scope")
def scope(tokens: VisualTokens, count: int) -> Tensor:
    """Coverage by cosines, weighed by attention."""
    weights = tokens.cls_attention[0].float().sum(0)
    return covered(cosines(tokens.encoder_features[0]), weights, count)


@official("eadp")
def eadp(tokens: VisualTokens, count: int) -> Tensor:
    """Coverage by (1 + cos) / 2, where a token counts by its relevance to words that pick something
    out.
    """
    patches = normalize(tokens.clip_patches.float(), dim=-1)
    whole = -(patches @ normalize(tokens.clip_text.float(), dim=-1).T)  # [N, M]
    parts = []
    for words in tokens.clip_text_tokens.float():
        single = -(patches @ normalize(words, dim=-1).T)  # [N, L]
        logs = (100 * single).log_softmax(0)
        entropy = -(logs.exp() * logs).sum(0)
        sharp = entropy.argsort()[: max(1, int(0.2 * len(entropy)))]
        parts.append(single[:, sharp] @ (-entropy[sharp] / 0.01).softmax(0))
    relevance = scaled((0.5 * whole + 0.5 * torch.stack(parts, 1)).mean(1))
    tile = tokens.tiles[0]
    side = torch.tensor([-1.0, 0, 1], device=relevance.device)
    line = (-side.square() / 2).exp()
    kernel = torch.outer(line, line) / line.sum().square()
    grid = relevance.view(1, 1, tile.rows, tile.columns)
    padded = torch.nn.functional.pad(grid, (1, 1, 1, 1), mode="reflect")
    weights = torch.nn.functional.conv2d(padded, kernel[None, None]).flatten()
    return covered((1 + cosines(tokens.features)) / 2, 1, count, weights[:, None])


@official("prunesid", is_exact=False)
def prunesid(tokens: VisualTokens, count: int) -> Tensor:
    """Groups by a random low-rank decomposition; in each, a matrix of its own, the most attended
    suppress their like, one after another.
    """
    features = tokens.encoder_features[0].float()
    attention = tokens.cls_attention[0].float().sum(0)
    total = count + 1
    channels = features.sigmoid().T
    right = torch.svd_lowrank(channels - channels.mean(0), q=max(1, total // 4))[2]
    component = right.abs().argmax(1)
    similarity = cosines(features)
    mean = similarity.fill_diagonal_(0).sum() / (len(features) * (len(features) - 1))
    groups, lefts = [], []
    for number in range(right.shape[1]):
        members = (component == number).nonzero()[:, 0]
        ranked = members[attention[members].argsort(descending=True)]
        is_member = component == number
        # official code has all groups' matrices [N, N] at once
        own = similarity * (is_member[:, None] & is_member)
        left: list[Tensor] = []
        waiting = ranked
        while len(waiting):
            left.append(waiting[0])
            is_like = own[waiting[0], waiting] > total / 32 * mean
            is_like[0] = True
            waiting = waiting[~is_like]
        first = torch.stack(left) if left else ranked
        groups.append(torch.cat([first, ranked[~torch.isin(ranked, first)]]))
        lefts.append(len(left))
    shares = shared([len(group) for group in groups], lefts, total)
    return torch.cat([group[:kept] for group, kept in zip(groups, shares, strict=True)])


def shared(sizes: list[int], lefts: list[int], total: int) -> list[int]:
    """How many of each group stay."""
    uppers = []
    for size, left in zip(sizes, lefts, strict=True):
        uppers.append(min(5 * ceil(total / 64), size, left))
    while sum(uppers) < min(total, sum(sizes)):
        uppers = [min(upper + 1, size) for upper, size in zip(uppers, sizes, strict=True)]
    lowers = [min(1, size) for size in sizes]
    rest, before, total_left = total - sum(lowers) - 1, 0, 0
    shares = []
    for lower, upper, left in zip(lowers, uppers, lefts, strict=True):
        total_left += left
        now = round(rest * total_left / max(1, sum(lefts)))
        shares.append(min(lower + now - before, upper))
        before = now
    for group in sorted(range(len(sizes)), key=lambda number: -lefts[number]):
        extra = min(total - 1 - sum(shares), uppers[group] - shares[group])
        shares[group] += max(0, extra)
    return shares


@official("dart")
def dart(tokens: VisualTokens, count: int) -> Tensor:
    """Each of four image and four text pivots takes the tokens least like it, of those that are
    still there.
    """
    norms = tokens.prompt_keys.float().abs().sum(dim=(0, 2))
    visual, text = tokens.visual_places, tokens.text_places
    of_text = norms[text].masked_fill(text < visual.min(), -torch.inf)
    own, beside = norms[visual].topk(4).indices, of_text.topk(4).indices
    states = tokens.features.float()
    pivots = torch.cat([states[own], tokens.text_features[beside].float()])
    is_there = torch.ones(len(states), dtype=torch.bool)
    is_there[own] = False
    kept = [own]
    for pivot in pivots:
        there = is_there.nonzero()[:, 0]
        likeness = torch.cosine_similarity(states[there], pivot[None], dim=-1)
        least = there[likeness.topk((count - 4) // 8, largest=False).indices]
        is_there[least] = False
        kept.append(least)
    return torch.cat(kept)


@official("tome")
def tome(tokens: VisualTokens, count: int) -> Tensor:
    """One block of bipartite soft matching behind a class token, with the merged rows."""
    metric = normalize(tokens.encoder_keys[0].float().mean(0), dim=-1)
    features = tokens.features.float()
    scores = metric[1::2] @ metric[::2].T
    best, host = scores.max(dim=-1)
    order = best.argsort(descending=True)
    merges, stays = order[: len(metric) - count], order[len(metric) - count :].sort().values
    sizes = torch.ones_like(features[:, :1])
    sums, totals = features * sizes, sizes
    halves = []
    for rows in (sums, totals):
        source, target = rows[1::2], rows[::2]
        halves.append(torch.cat([source[stays], target.index_add(0, host[merges], source[merges])]))
    merged = halves[0] / halves[1]
    assert len(merged) == count
    places = torch.arange(len(metric))
    return torch.cat([places[1::2][stays], places[::2]])


@official("visionzip")
def visionzip(tokens: VisualTokens, count: int) -> Tensor:
    """Dominant tokens by attention; the others join evenly spaced ones, whose rows are summed."""
    contextual = round(count * 10 / 64)
    attention = tokens.cls_attention[0].float().sum(0)
    is_dominant = torch.zeros_like(attention, dtype=torch.bool)
    is_dominant[attention.topk(count - contextual).indices] = True
    rest = (~is_dominant).nonzero()[:, 0]
    metric = normalize(tokens.encoder_keys[0].float().mean(0)[rest], dim=-1)
    step = max(1, len(rest) // contextual)
    target = torch.arange(0, len(rest), step)[:contextual]
    is_target = torch.zeros_like(rest, dtype=torch.bool)
    is_target[target] = True
    likeness = metric[~is_target] @ metric[target].T
    assigned = torch.zeros_like(likeness).scatter_(1, likeness.argmax(1, keepdim=True), 1)
    sums = assigned.T @ tokens.features[rest[~is_target]].float()
    rows = tokens.features[rest[target]] + sums / assigned.sum(0).clamp(min=1)[:, None]
    assert len(rows) == contextual
    return torch.cat([is_dominant.nonzero()[:, 0], rest[target]])


@official("holov")
def holov(tokens: VisualTokens, count: int) -> Tensor:
    """Stretches weighed by attention and by the variance of cosines; in each the most attended."""
    attention = tokens.cls_attention[0].float().mean(0)
    stretches = torch.arange(len(attention)).tensor_split(16)
    weights = torch.stack([stretch_score(tokens.features[s], attention[s]) for s in stretches])
    weights = weights / weights.sum()
    quota = (weights * count).floor().long()
    quota[weights.argsort(descending=True)[: count - int(quota.sum())]] += 1
    kept = []
    for stretch, number in zip(stretches, quota.tolist(), strict=True):
        kept.append(stretch[attention[stretch].topk(min(number, len(stretch))).indices])
    return torch.cat(kept)


def stretch_score(features: Tensor, attention: Tensor) -> Tensor:
    """The mean score of a stretch's tokens."""
    similarity = cosines(features).fill_diagonal_(0)
    size = len(features) - 1
    mean = similarity.sum(1, keepdim=True) / size
    variance = (similarity - mean).square().sum(1) / size
    paid = 1000 * attention
    factor = paid.abs().mean() / (variance.abs().mean() + 1e-6)
    return (paid + 0.09 * variance * factor).mean()


@official("pact")
def pact(tokens: VisualTokens, _count: int) -> Tensor:
    """Centres at the published share and cutoff, one token after another, and what joins them."""
    rows = int(tokens.visual_places.max()) + 1
    query = tokens.next_queries[:, :rows].float().mean(1)
    keys = tokens.next_keys[:, :rows].float()
    keys = keys.repeat_interleave(len(query) // len(keys), 0)
    paid = (torch.einsum("hd,hnd->hn", query, keys) / sqrt(query.shape[1])).softmax(-1).mean(0)
    states = tokens.features.float()
    score = paid[tokens.visual_places] * states.norm(dim=-1)
    first = score.topk(int(len(states) * 0.55)).indices
    rotated = tokens.next_rotated_keys[:, tokens.visual_places].float()
    unit = normalize(rotated.transpose(0, 1).flatten(1), dim=-1)
    distance = 1 - unit[first] @ unit[first].T
    density = (-(distance / 2).square()).exp().sum(1)
    centres: list[int] = []
    for point in density.argsort(descending=True).tolist():
        if not centres or bool((distance[point, centres] > 0.21).all()):
            centres.append(point)
    places: Tensor = first[centres]
    nearest = (1 - unit @ unit[places].T).min(1)
    joins = nearest.values <= 1.5 * 0.21
    members = torch.zeros(len(places), len(states))
    members[nearest.indices, torch.arange(len(states))] = joins.float()
    merged = members @ states / members.sum(1, keepdim=True)
    assert len(merged) == len(places)
    return places
