"""HoloV (NeurIPS 2025): share the budget among stretches of the image by their attention, and keep
the most attended tokens of each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

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
    fill,
    quotas,
    register,
    require_finite,
    top,
    top_of_each,
    view_places,
    with_newlines,
)


@register(
    paper="https://arxiv.org/abs/2510.02912",
    code="https://github.com/obananas/HoloV",
    variant=(
        "what a stretch cannot hold goes to the others, where official code hands on rows of "
        "zeros; every image and frame has stretches and a share of the budget of its own; tokens "
        "go on in reading order, unless order=given; unpadding and newlines are the model's"
    ),
)
@dataclass(frozen=True)
class HoloV(Pruner):
    """Cut the tokens of an image, row after row, into `chunks` stretches of equal length; each gets
    a share of the budget by its mean attention, rounded down, and the slots left over go one each
    to the highest.

    The published weight of a stretch adds to attention the variance of its cosines, which official
    code scales to the same mean, so that all shares stay as they are: features do not count, here
    by construction.

    Settings:

    - `chunks`: how many stretches there are;
    - `official`: lose what a stretch cannot hold, so that fewer tokens survive;
    - `order`: "given" hands tokens on stretch by stretch, the most attended first, as official code
      does; "raster" in reading order;
    - `attention`: see `attention_reads`.
    """

    default_positions = "compact"
    work_by_shape = True
    own_share = 64 / 576
    chunks: int = 16
    official: bool = False
    order: Literal["raster", "given"] = "raster"
    attention: str = "auto"

    def __post_init__(self) -> None:
        check_attention(self.attention)
        if self.chunks < 1:
            raise ValueError(f"chunks is {self.chunks}; it is 1 or more")
        if self.order not in ("raster", "given"):
            raise ValueError(f"order is {self.order!r}; it is 'raster' or 'given'")

    @property
    def dynamic(self) -> bool:  # type: ignore[override]  # a setting decides
        return self.official

    @property
    def stand_ins(self) -> Mapping[Signal, Signal | None]:
        return attention_stand_ins(self.attention)

    @property
    def reads(self) -> Reads:
        return attention_reads(self.attention)

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        """Stretch after stretch, the most attended first; raises ValueError for attention that is
        not finite.
        """
        scores = encoder_attention(tokens).mean(dim=(0, 1)).cpu()
        require_finite(scores, "attention")
        kept = []
        for stretches, counts in self.shared(tokens, scores, stage.keep):
            sizes = torch.tensor([len(places) for places in stretches])
            capped = torch.tensor(counts).minimum(sizes).tolist()
            kept.append(top_of_each(scores, stretches, capped))
        places = torch.cat([torch.empty(0, dtype=torch.int64), *kept])
        if not self.official:
            places = with_newlines(tokens, places, stage.keep)
        return Keep(places, order=self.order)

    def shared(
        self, tokens: VisualTokens, scores: Tensor, count: int
    ) -> list[tuple[list[Tensor], list[int]]]:
        """Per image or frame its stretches, as places on the CPU, and how many of each may stay."""
        groups = [places.cpu() for places in view_places(tokens)]
        shares = []
        for places, quota in zip(groups, quotas(groups, count), strict=True):
            if quota > 0:
                stretches = list(places.tensor_split(min(self.chunks, len(places))))
                means = torch.stack([scores[stretch].mean() for stretch in stretches])
                shares.append((stretches, self.quota(means, stretches, quota)))
        return shares

    def quota(self, means: Tensor, stretches: list[Tensor], count: int) -> list[int]:
        """How many of `count` tokens each stretch gets by its mean attention [P]."""
        total = means.sum()
        # without any attention all stretches are alike
        weights = means / total if total > 0 else torch.full_like(means, 1 / len(means))
        parts = (weights * count).long()
        parts[top(weights, count - int(parts.sum()))] += 1
        if self.official:
            return [int(part) for part in parts]
        sizes = torch.tensor([len(places) for places in stretches])
        capped = parts.minimum(sizes)
        overflow = fill(int((parts - capped).sum()), weights, sizes - capped)
        return [int(part) for part in capped + torch.tensor(overflow)]

    def explain(self, tokens: VisualTokens, stage: Stage) -> dict[str, Tensor]:
        scores = encoder_attention(tokens).mean(dim=(0, 1)).cpu()
        quota: list[int] = []
        for _, counts in self.shared(tokens, scores, stage.keep):
            quota += counts
        return {"quota": torch.tensor(quota)}
