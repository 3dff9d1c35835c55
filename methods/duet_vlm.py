"""DUET-VLM (CVPR 2026): keep what the encoder attends to and sum up the runners-up, then drop in
stages what the whole question barely attends to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import normalize

from prunebench import (
    INPUT,
    Budget,
    BudgetError,
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
    encoder_attention,
    llm,
    quotas,
    register,
    solve,
    tile_places,
    top,
    with_newlines,
)

PUBLISHED = 205 / 576
"""What the first stage keeps as published for about 128 tokens a layer."""


@register(
    paper="https://arxiv.org/abs/2602.18846",
    code="https://github.com/AMD-AGI/DUET-VLM",
    variant=(
        "no CLS row is handed on, its place in the budget goes to a patch; rows are merged behind "
        "the projector; unpadding and newlines are the model's; all text votes, salient words from "
        "another model are left out"
    ),
)
@dataclass(frozen=True)
class DuetVLM(Pruner):
    """Two stages: one behind the projector, as VisionZip, and then PyramidDrop's with all text.

    Per tile the patches of highest attention stay. Of the others the `width` times C most attended
    are a pool, in descending order; every (pool // C)-th of it, C in all, is an anchor, and each of
    the rest joins the anchor whose key, averaged over heads, has the largest cosine with its own.
    A contextual row is its anchor plus the mean of what joined it (a sum); what is outside the pool
    leaves. Rows go on as official code hands them over: of every tile those kept in reading order,
    then the contextual ones by descending attention.

    Before each of `layers` of the language model tokens rank by the attention that all text behind
    the first of them would pay there, averaged over heads and text. A budget scales the first
    stage, the later ones keep their `ratios` of it; one that is above what this can spend lets them
    rise. Without one the first stage keeps 205 of 576, as published for about 128 tokens a layer.

    Settings:

    - `contextual`: which share of the first stage's survivors is contextual, 35 of 205 as published
      (with the CLS row);
    - `width`: how many times as many tokens as contextual rows the pool has;
    - `layers`, `ratios`: numbers or shares of the depth (floats, rounded down), 16 and 24 of 32 as
      published, and what stays there of the first stage's survivors; none for that stage alone;
    - `attention`: see `attention_reads`; the received one is ours.
    """

    default_positions = "compact"
    work_by_shape = True
    contextual: float = 35 / 205
    width: int = 4
    layers: tuple[int | float, ...] = (0.5, 0.75)
    ratios: tuple[float, ...] = (0.5, 0.0)
    attention: str = "auto"

    def __post_init__(self) -> None:
        check_attention(self.attention)
        if not 0 <= self.contextual <= 1:
            raise ValueError(f"contextual is {self.contextual:g}; it is a share in 0..1")
        if self.width < 1:
            raise ValueError(f"width is {self.width}; it is 1 or more")
        shares = [1.0, *self.ratios, 0.0]
        if len(self.ratios) != len(self.layers) or sorted(shares, reverse=True) != shares:
            raise ValueError(
                f"ratios are {list(self.ratios)}; they fall within 1..0, one for each of "
                f"{len(self.layers)} layers"
            )

    @property
    def stand_ins(self) -> Mapping[Signal, Signal]:
        return attention_stand_ins(self.attention)

    @property
    def reads(self) -> Reads:
        outer = attention_reads(self.attention) | Reads(frozenset({Signal.ENCODER_KEYS}))
        outer = outer.only_at(INPUT)
        if not self.layers:
            return outer
        return outer | Reads(frozenset({Signal.NEXT_TEXT_ATTENTION}))

    def prepared(self, facts: Facts) -> Self:
        """Shares of the depth become numbers where not every layer attends."""
        if not facts.stateful:
            return self
        numbers: list[int | float] = []
        for layer in self.layers:
            number = _number_of(layer, facts.layers)
            if isinstance(layer, float):
                first = int(numbers[-1]) + 1 if numbers else 1
                number = facts.attending_near(max(first, number), first=first)
            numbers.append(number)
        return replace(self, layers=tuple(numbers))

    def sites(self, layers: int) -> list[Site]:
        """Its sites in a model of `layers` LLM layers; raises BudgetError where they coincide or
        lie outside.
        """
        numbers = [_number_of(layer, layers) for layer in self.layers]
        if sorted({*numbers}) != numbers or any(not 0 < number < layers for number in numbers):
            raise BudgetError(
                f"duet_vlm.layers {list(self.layers)} are the layers {numbers} of {layers}; "
                f"they must rise and lie in 1..{layers - 1}"
            )
        return [INPUT, *(llm(before=number) for number in numbers)]

    def plan(self, budget: Budget | None, available: int, layers: int) -> tuple[Stage, ...]:
        """Stages of both parts, as published without a budget."""
        sites = self.sites(layers)
        if budget is not None:
            fewest = int(not self.ratios)
            return solve(budget, sites, available, layers, self.shares, fewest=fewest)
        first = max(1, round(PUBLISHED * available))
        counts = [first, *(int(ratio * first) for ratio in self.ratios)]
        return tuple(Stage(site, count) for site, count in zip(sites, counts, strict=True))

    def shares(self, t: float) -> list[float]:
        """Of the available tokens those alive behind each stage: up to a half of 1, what the first
        one keeps rises, then what the others do.
        """
        first, rest = min(1.0, 2 * t), max(0.0, 2 * t - 1)
        later = [first * ratio + rest * (1 - ratio) for ratio in self.ratios]
        return [first, *later]

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        """Patches and contextual rows at the input, the best tokens of the text later."""
        if tokens.site.part is Part.LLM:
            return Keep(top(self.score(tokens), stage.keep))
        parts = self.parts(tokens, stage.keep)
        features = tokens.features.float()
        joined = (parts["assignment"] >= 0).nonzero()[:, 0]
        anchors = parts["assignment"][joined]
        sums = torch.zeros_like(features).index_add(0, anchors, features[joined])
        counts = torch.bincount(anchors, minlength=len(features))
        merged = features + sums / counts.clamp(min=1)[:, None]
        index = with_newlines(tokens, parts["order"], stage.keep)
        return Keep(index, merged[index].to(tokens.features.dtype), order="given")

    def score(self, tokens: VisualTokens) -> Tensor:
        """[N] what all text would pay in the layer behind the site."""
        return tokens.next_text_attention.float().mean(dim=(0, 1))

    def parts(self, tokens: VisualTokens, count: int) -> dict[str, Tensor]:
        """Places by name: patches kept and anchors, both ascending, all in the `order` of rows, and
        for each of the N tokens the anchor that it joins, -1 for none.
        """
        scores = encoder_attention(tokens)[0].sum(0)
        metric = normalize(tokens.encoder_keys[0].float().mean(0), dim=-1)
        assignment = torch.full_like(scores, -1, dtype=torch.int64)
        dominant, contextual, order = [], [], [assignment[:0]]
        groups = [places.to(scores.device) for places in tile_places(tokens, newlines=False)]
        for places, quota in zip(groups, quotas(groups, count), strict=True):
            merges = round(quota * self.contextual)
            # a tile's patches, the most attended first: those kept, the pool, and the rest
            ranked = places[top(scores[places], len(places))]
            best, pool = ranked[: quota - merges], ranked[quota - merges :]
            pool = pool[: self.width * merges]
            is_anchor = _evenly(len(pool), merges).to(pool.device)
            anchors, others = pool[is_anchor], pool[~is_anchor]
            if merges:
                closest = (metric[others] @ metric[anchors].T).argmax(1)
                assignment[others] = anchors[closest]
            dominant.append(best.sort().values)
            contextual.append(anchors)
            order += [dominant[-1], anchors]
        return {
            "keep_dominant": torch.cat(dominant),
            "keep_contextual": torch.cat(contextual).sort().values,
            "order": torch.cat(order),
            "assignment": assignment,
        }

    def explain(self, tokens: VisualTokens, stage: Stage) -> dict[str, Tensor]:
        if tokens.site.part is Part.LLM:
            return {"scores": self.score(tokens)}
        return self.parts(tokens, stage.keep)


def _evenly(length: int, count: int) -> Tensor:
    """[length] bool: the first `count` of every (length // count)-th."""
    step = max(1, length // max(1, count))
    number = torch.arange(length)
    return (number % step == 0) & (number < step * count)


def _number_of(layer: int | float, layers: int) -> int:
    """A layer's number, of a share of the depth the one below it."""
    return max(1, int(layer * layers)) if isinstance(layer, float) else layer
