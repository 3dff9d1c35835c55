"""FlowCut (NeurIPS 2025): block by block of the vision encoder, patches leave that little flows
through, the more the more the encoder's attention gathers.
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
    Pruner,
    Reads,
    Signal,
    Site,
    Stage,
    Unsupported,
    VisualTokens,
    attention_reads,
    attention_stand_ins,
    check_attention,
    encoder_attention,
    quotas,
    register,
    require_finite,
    solve,
    tile_places,
    top,
    vision,
    with_newlines,
)

CLIP_BLOCK = 21
"""The last block of CLIP that the method looks at, taken where nobody has said which."""


@dataclass(frozen=True)
class TargetStage(Stage):
    """A stage that may keep all it is shown, on the way to `target` tokens."""

    target: int = 0


@register(
    paper="https://arxiv.org/abs/2505.19536",
    code="https://github.com/TungChintao/FlowCut",
    variant=(
        "every tile by itself, where official code removes from all tiles of a batch as many as "
        "from one; patches leave behind a block; LLaVA-NeXT's cut in the language model is left out"
    ),
)
@dataclass(frozen=True)
class FlowCut(Pruner):
    """Behind every block, while more patches are left than stay in the end, a patch scores
    (A / sum A + S / sum S) |v|: A is the CLS token's attention, averaged over heads, S the softmax
    of the products of its value with theirs (over the two together), and |v| the sum of absolute
    values of a patch's own, averaged over heads; a running score is halfway between what it was and
    the new one.

    Behind every second block, the last one among them, round((n - T) / sqrt(rest) (1 - (H / log
    n)^2)) of a tile's n patches leave, those of the lowest running score; H is the entropy of
    A / sum A, `rest` the number of blocks to come, and T what stays in the end, by which the last
    block cuts. How many leave where depends on the picture; T, all that the language model sees,
    does not.

    `attention`: see `attention_reads`; with the received one, which is ours, the mean value of a
    tile's patches stands in for that of its CLS token.
    """

    default_positions = "compact"
    dynamic = True
    attention: str = "auto"
    block: int = field(default=CLIP_BLOCK, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_attention(self.attention)

    @property
    def stand_ins(self) -> Mapping[Signal, Signal]:
        stand_ins = attention_stand_ins(self.attention)
        return {**stand_ins, Signal.CLS_VALUES: Signal.ENCODER_VALUES} if stand_ins else {}

    @property
    def reads(self) -> Reads:
        signals = {Signal.ENCODER_VALUES}
        if self.attention != "received":
            signals.add(Signal.CLS_VALUES)
        return attention_reads(self.attention) | Reads(frozenset(signals))

    def prepared(self, facts: Facts) -> Self:
        """The number of the block that the projector reads; raises Unsupported without one."""
        if facts.feature_block is None:
            raise Unsupported("flowcut prunes in a vision encoder; a bare decoder has none")
        return replace(self, block=facts.feature_block)

    def site(self) -> Site:
        return vision(before=1) if self.block else INPUT

    def plan(self, budget: Budget | None, available: int, layers: int) -> tuple[Stage, ...]:
        """A look behind every block; raises BudgetError without a budget."""
        if budget is None:
            return super().plan(budget, available, layers)
        (last,) = solve(budget, [INPUT], available, layers)
        return (*self.looks(available, last.keep), last)

    def looks(self, available: int, target: int) -> list[Stage]:
        """The stages inside the encoder on the way to `target` tokens."""
        sites = [vision(before=number) for number in range(1, self.block + 1)]
        return [TargetStage(site, available, target=target) for site in sites]

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        """What is left of every tile; raises ValueError for signals that are not finite."""
        target = stage.target if isinstance(stage, TargetStage) else stage.keep
        flow, attention = self.flow(tokens)
        scores = self.running(tokens, flow)
        groups = [places.to(scores.device) for places in tile_places(tokens, newlines=False)]
        kept = [torch.empty(0, dtype=torch.int64, device=scores.device)]
        for places, quota in zip(groups, quotas(groups, target), strict=True):
            count = len(places) - self.leaving(attention[places], quota, tokens.site)
            kept.append(places[top(scores[places], count)])
        index = torch.cat(kept)
        if tokens.site == INPUT:
            index = with_newlines(tokens, index, stage.keep)
        places = index.cpu()
        entry = tokens.index[places], scores.cpu()[places]
        tokens.memo[f"flowcut at {self.depth_of(tokens.site)}"] = entry
        return Keep(index)

    def depth_of(self, site: Site) -> int:
        """How many blocks lie before a site."""
        return self.block + 1 if site == INPUT else site.layer

    def leaving(self, attention: Tensor, target: int, site: Site) -> int:
        """How many patches of a tile leave, whose attention [n] this is."""
        count = len(attention)
        surplus, rest = count - target, self.block + 1 - self.depth_of(site)
        if surplus <= 0 or rest % 2:
            return 0
        if rest == 0 or count == 1:
            return surplus
        part = attention.double() / attention.double().sum().clamp(min=1e-12)
        entropy = -(part * part.clamp(min=1e-12).log()).sum()
        evenness = float(entropy) / float(torch.tensor(float(count)).double().log())
        share = float(surplus / rest**0.5 * (1 - evenness**2))
        return min(surplus, max(0, round(share)))

    def running(self, tokens: VisualTokens, flow: Tensor) -> Tensor:
        """[N] the score so far."""
        # a stage may be asked twice and must not read its own answer
        layers = range(self.depth_of(tokens.site))
        entries = [
            f"flowcut at {layer}" for layer in layers if f"flowcut at {layer}" in tokens.memo
        ]
        if not entries:
            return flow
        index, scores = tokens.memo[entries[-1]]
        before = torch.zeros(len(tokens.layout)).index_copy(0, index, scores)
        return (before[tokens.index].to(flow.device) + flow) / 2

    def flow(self, tokens: VisualTokens) -> tuple[Tensor, Tensor]:
        """[N] the score of this block, and [N] attention, averaged over heads; 0 for newlines."""
        attention = encoder_attention(tokens)[0].mean(0)
        values = tokens.encoder_values[0].float().mean(0)  # [N, d_h]
        require_finite(attention, "attention")
        require_finite(values, "encoder values")
        flow = torch.zeros_like(attention)
        for number, places in enumerate(tile_places(tokens, newlines=False)):
            places = places.to(flow.device)
            if len(places):
                likeness = self.likeness(tokens, number, places)
                paid = attention[places]
                shares = paid / paid.sum().clamp(min=1e-12) + likeness / likeness.sum()
                flow[places] = shares * values[places].abs().sum(-1)
        return flow, attention

    def likeness(self, tokens: VisualTokens, tile: int, places: Tensor) -> Tensor:
        """[n] how alike the values of a tile's patches are to its CLS token's, averaged over
        heads.
        """
        values = tokens.encoder_values[0].float()[:, places]  # [H, n, d_h]
        if Signal.CLS_VALUES not in tokens.signals:
            summary = values.mean(1, keepdim=True)
            return (values @ summary.mT)[..., 0].softmax(-1).mean(0)
        summary = tokens.cls_values[0].float()[:, tile, None]  # [H, 1, d_h]
        rows = torch.cat([summary, values], dim=1)
        return (rows @ summary.mT)[..., 0].softmax(-1)[:, 1:].mean(0)
