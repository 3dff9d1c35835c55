"""VScan (2025): keep what the encoder looks at in windows and in the whole, add the rest to it, and
drop more halfway through the language model.
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
    BudgetError,
    Facts,
    Keep,
    Pruner,
    Reads,
    Signal,
    Site,
    Stage,
    VisualTokens,
    absorbed,
    attention_reads,
    attention_stand_ins,
    check_attention,
    encoder_attention,
    llm,
    nearest,
    quotas,
    register,
    require_finite,
    solve,
    tile_places,
    top,
    with_newlines,
)


@register(
    paper="https://arxiv.org/abs/2505.22654",
    code="https://github.com/Tencent/SelfEvolvingAgent",
    variant=(
        "the half of the whole makes up for what windows leave over, where official code keeps "
        "fewer; the second stage ranks all tiles; unpadding and newlines are the model's"
    ),
)
@dataclass(frozen=True)
class VScan(Pruner):
    """At the input, half of a tile's survivors are the most attended of each window in a shallow
    block, the others the most attended of what is left in the block that the projector reads.

    Every token dropped is averaged into the survivor of largest cosine. Before `layer` of the
    language model a third stays of what is left: what the last prompt token would attend to most in
    that layer, averaged over heads. Above two thirds at the input more than a third stays, so that
    all budgets are within reach.

    Settings:

    - `local`: the shallow block, a number or a share of the depth (5 of CLIP's 24, 7 of Qwen's 32);
    - `window`: the side of a window in tokens; what is left at the edges joins the last windows;
    - `layer`: where the second stage lies, a number or a share of the depth; 0 leaves it out;
    - `attention`: see `attention_reads`; received attention is what its Qwen2.5-VL code ranks by;
    - `official`: keep fewer where the windows do not share their half evenly.
    """

    default_positions = "compact"
    work_by_shape = True
    local: int | float = 0.22
    window: int = 6
    layer: int | float = 0.5
    attention: str = "auto"
    official: bool = False
    feature_block: int = field(default=-1, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_attention(self.attention)
        if self.window < 1:
            raise ValueError(f"window is {self.window}; it is 1 or more")

    @property
    def dynamic(self) -> bool:  # type: ignore[override]  # a setting decides
        return self.official

    def prepared(self, facts: Facts) -> Self:
        """The share of the encoder's depth becomes a block; a bare decoder has none to count."""
        if facts.vision_blocks is None or facts.feature_block is None:
            return self
        local = self.local
        if isinstance(local, float):
            local = min(int(local * facts.vision_blocks), facts.feature_block)
        return replace(self, local=local, feature_block=facts.feature_block)

    @property
    def stand_ins(self) -> Mapping[Signal, Signal | None]:
        return attention_stand_ins(self.attention)

    @property
    def reads(self) -> Reads:
        # a share of a depth that is not known yet names no block
        blocks = () if isinstance(self.local, float) else (self.local, self.feature_block)
        encoder = attention_reads(self.attention, blocks).only_at(INPUT)
        return encoder | Reads(frozenset({Signal.NEXT_QUERY_ATTENTION})) if self.layer else encoder

    def second(self, layers: int) -> Site:
        """Where the second stage lies in a model of so many layers; raises BudgetError where there
        is no such place.
        """
        share = isinstance(self.layer, float)
        number = max(1, int(self.layer * layers)) if share else int(self.layer)
        if not 1 <= number < layers:
            raise BudgetError(
                f"vscan.layer {self.layer} is layer {number} of {layers}; "
                f"it lies in 1..{layers - 1}, or is 0 for no second stage"
            )
        return llm(before=number)

    def plan(self, budget: Budget | None, available: int, layers: int) -> tuple[Stage, ...]:
        """A sixth of the tokens at the input and a third of these later, unless a budget says how
        many.
        """
        sites = [INPUT, self.second(layers)] if self.layer else [INPUT]
        if budget is not None:
            return solve(budget, sites, available, layers, lambda t: _shares(t)[: len(sites)])
        pairs = zip(sites, _shares(1 / 6), strict=False)
        return tuple(Stage(site, max(1, round(share * available))) for site, share in pairs)

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        """The picks, at the input with what is averaged into them."""
        if stage.site != INPUT:
            return Keep(top(tokens.next_query_attention.mean(0), stage.keep))
        scores = encoder_attention(tokens).mean(1)  # [2, N]
        require_finite(scores, "attention")
        require_finite(tokens.features, "features")
        nothing = torch.empty(0, dtype=torch.int64, device=tokens.features.device)
        kept, leaving, hosts = [nothing], [nothing], [nothing]
        groups = tile_places(tokens, newlines=False)
        for places, quota in zip(groups, quotas(groups, stage.keep), strict=True):
            if quota == 0:
                continue
            kept.append(self.picks(tokens, places, scores[:, places].to(places.device), quota))
            leaving.append(places[~torch.isin(places, kept[-1])])
            hosts.append(nearest(tokens.features, leaving[-1], kept[-1]))
        index = torch.cat(kept)
        if not self.official:
            index = with_newlines(tokens, index, stage.keep)
        merged = absorbed(tokens.features, torch.cat(leaving), torch.cat(hosts))
        return Keep(index, merged[index].to(tokens.features.dtype))

    def picks(self, tokens: VisualTokens, places: Tensor, scores: Tensor, count: int) -> Tensor:
        """The survivors of one tile: those of its windows, window after window, then those of the
        whole; `scores` [2, n] are the attention in both blocks.
        """
        window = self.windows(tokens, places.cpu()).to(scores.device)
        windows = int(window.max()) + 1
        ranked = top(scores[0], len(places))
        # by window, and best first inside each
        ranked = ranked[window[ranked].sort(stable=True).indices]
        sizes = torch.bincount(window, minlength=windows)
        starts = sizes.cumsum(0) - sizes
        rank = torch.arange(len(places), device=scores.device) - starts[window[ranked]]
        local = ranked[rank < count // 2 // windows]
        rest = scores[1].index_fill(0, local, -torch.inf)
        whole = count - (count // 2 if self.official else len(local))
        return places[torch.cat([local, top(rest, whole)])]

    def windows(self, tokens: VisualTokens, places: Tensor) -> Tensor:
        """[n] the number of the window in which each of a tile's places lies, in reading order."""
        tile = tokens.tiles[int(tokens.tile[places[0]])]
        down, across = max(1, tile.rows // self.window), max(1, tile.columns // self.window)
        row = (tokens.row[places] // self.window).clamp(max=down - 1)
        column = (tokens.column[places] // self.window).clamp(max=across - 1)
        number = row * across + column
        # numbers without gaps, for dropped tokens may have emptied a window
        numbers: Tensor = number.unique(return_inverse=True)[1]
        return numbers


def _shares(t: float) -> list[float]:
    """What is alive behind the two stages."""
    return [t, t * max(1 / 3, 2 * t - 1)]
