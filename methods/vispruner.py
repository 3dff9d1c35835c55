"""VisPruner (ICCV 2025): keep the tokens that draw the encoder's attention, and of the rest those
that differ from each other.
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
    pick_tiles,
    register,
    require_finite,
    top,
)


@register(
    paper="https://arxiv.org/abs/2412.01818",
    code="https://github.com/Theia-4869/VisPruner",
    variant=(
        "unpadding and newlines are the model's; a list of odd length is split with one more on "
        "its even side, where official code stops with an error"
    ),
)
@dataclass(frozen=True)
class VisPruner(Pruner):
    """Per tile keep the patches of highest attention, and thin out the others until as many are
    left as may stay.

    The others are a list by descending attention. In every round the places of the list that are
    even are compared with those that are odd, by the cosine of the encoder's features, and the
    `step` even ones most like any odd one leave. The even ones that stay come first in the next
    list, by descending likeness, and then the odd ones.

    Settings:

    - `important`: which share of the survivors is chosen by attention, rounded down;
    - `step`: how many leave in a round;
    - `attention`: see `attention_reads`.
    """

    default_positions = "compact"
    work_by_shape = True
    important: float = 0.5
    step: int = 8
    attention: str = "auto"

    def __post_init__(self) -> None:
        check_attention(self.attention)
        if not 0 <= self.important <= 1 or self.step < 1:
            raise ValueError(
                f"important is {self.important:g} and step {self.step}; "
                "the one is a share in 0..1, the other is 1 or more"
            )

    @property
    def stand_ins(self) -> Mapping[Signal, Signal | None]:
        return attention_stand_ins(self.attention)

    @property
    def reads(self) -> Reads:
        return attention_reads(self.attention) | Reads(frozenset({Signal.ENCODER_FEATURES}))

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        """By attention, then what is left of the lists; raises ValueError for values that are not
        finite.
        """
        scores = encoder_attention(tokens).mean(dim=(0, 1))
        features = tokens.encoder_features[0]
        require_finite(features, "encoder features")
        unit = normalize(features.float(), dim=-1)

        def pick(places: Tensor, count: int) -> Tensor:
            ranked = places.to(scores.device)
            ranked = ranked[top(scores[ranked], len(ranked))]
            important = int(count * self.important)
            others = self.thinned(unit[ranked[important:]], count - important)
            return torch.cat([ranked[:important], ranked[important:][others]])

        return Keep(pick_tiles(tokens, stage.keep, pick))

    def thinned(self, unit: Tensor, count: int) -> Tensor:
        """[count] places in a list of features [n, D] of length 1, in the order of the last
        round.
        """
        places = torch.arange(len(unit), device=unit.device)
        if count == 0:
            return places[:0]
        likeness = unit @ unit.T
        while len(places) > count:
            even, odd = places[::2], places[1::2]
            closest = likeness[even][:, odd].amax(1)
            ranked = closest.sort(descending=True, stable=True).indices
            leaving = min(self.step, len(places) - count, len(even))
            places = torch.cat([even[ranked[leaving:]], odd])
        return places
