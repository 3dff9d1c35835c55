"""VisionZip (CVPR 2025): keep the tokens that draw the encoder's attention, and add the rest to
evenly spaced others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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
    quotas,
    register,
    tile_places,
    with_newlines,
)


@register(
    paper="https://arxiv.org/abs/2412.04467",
    code="https://github.com/dvlab-research/VisionZip",
    variant=(
        "no CLS row is handed on, its place in the budget goes to a patch; rows are merged behind "
        "the projector, and go on in reading order; unpadding and newlines are the model's"
    ),
)
@dataclass(frozen=True)
class VisionZip(Pruner):
    """Per tile keep the patches of highest attention, and merge all others into contextual ones.

    Targets are every (R // C)-th of the R others in reading order, C in all; each of the rest joins
    the target whose key, averaged over heads, has the largest cosine with its own. A contextual row
    is its target plus the mean of what joined it: a sum, as official code has it, in LLaVA ahead of
    the projector and in its Qwen2.5-VL port behind it, as here.

    Settings:

    - `contextual`: which share of the survivors is contextual, 10 of 64 as published for LLaVA;
    - `attention`: see `attention_reads`; received attention is what the Qwen2.5-VL port ranks by.
    """

    default_positions = "compact"
    work_by_shape = True
    contextual: float = 0.15625
    attention: str = "auto"

    def __post_init__(self) -> None:
        check_attention(self.attention)
        if not 0 <= self.contextual <= 1:
            raise ValueError(f"contextual is {self.contextual:g}; it is a share in 0..1")

    @property
    def stand_ins(self) -> Mapping[Signal, Signal | None]:
        return attention_stand_ins(self.attention)

    @property
    def reads(self) -> Reads:
        return attention_reads(self.attention) | Reads(frozenset({Signal.ENCODER_KEYS}))

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        """Dominant patches and contextual targets; first newlines where more may stay."""
        parts = self.parts(tokens, stage.keep)
        targets = parts["keep_contextual"]
        index = torch.cat([parts["order"], targets])
        # [C, N] which tokens join each target
        members = (parts["assignment"] == targets[:, None]).float()
        sums = members @ tokens.features.float()
        means = sums / members.sum(1, keepdim=True).clamp(min=1)
        index = with_newlines(tokens, index, stage.keep)
        rows = tokens.features[index].float()
        first = len(parts["order"])
        rows[first : first + len(targets)] += means
        return Keep(index, rows.to(tokens.features.dtype))

    def parts(self, tokens: VisualTokens, count: int) -> dict[str, Tensor]:
        """Places by name: dominant patches by attention (`order`), contextual targets in reading
        order, and for each of the N tokens the target that it joins, -1 for none.
        """
        scores = encoder_attention(tokens).mean(dim=(0, 1))
        metric = normalize(tokens.encoder_keys[0].float().mean(0), dim=-1)  # [N, d_h]
        assignment = torch.full_like(scores, -1, dtype=torch.int64)
        nothing = assignment[:0]
        dominant, contextual = [nothing], [nothing]
        groups = [places.to(scores.device) for places in tile_places(tokens, newlines=False)]
        for places, quota in zip(groups, quotas(groups, count), strict=True):
            merges = round(quota * self.contextual)
            best = scores[places].sort(descending=True, stable=True).indices[: quota - merges]
            dominant.append(places[best])
            is_left = torch.ones_like(places, dtype=torch.bool).index_fill_(0, best, False)
            others = places[is_left]
            if merges == 0:
                continue
            is_target = _evenly(len(others), merges).to(others.device)
            targets, rest = others[is_target], others[~is_target]
            contextual.append(targets)
            assignment[rest] = targets[(metric[rest] @ metric[targets].T).argmax(1)]
        return {
            "order": torch.cat(dominant),
            "keep_contextual": torch.cat(contextual),
            "assignment": assignment,
        }

    def explain(self, tokens: VisualTokens, stage: Stage) -> dict[str, Tensor]:
        parts = self.parts(tokens, stage.keep)
        return {**parts, "keep_dominant": parts["order"].sort().values}


def _evenly(length: int, count: int) -> Tensor:
    """[length] bool: the first `count` of every (length // count)-th."""
    step = max(1, length // count)
    number = torch.arange(length)
    return (number % step == 0) & (number < step * count)
