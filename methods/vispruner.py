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
    gram,
    pick_tiles,
    register,
    require_finite,
    top,
)

NEAREST = 16
"""Of how many of a token's nearest it is first asked which is closest, before all are."""


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
        likeness, numbers = Likeness(gram(unit)), places
        while len(numbers) > count:
            even, odd = numbers[::2], numbers[1::2]
            closest = likeness.closest(even, odd)
            ranked = closest.sort(descending=True, stable=True).indices
            leaving = min(self.step, len(numbers) - count, len(even))
            numbers = torch.cat([even[ranked[leaving:]], odd])
            if 2 * len(numbers) < len(places):
                # so many have left that few of the nearest are there
                likeness, places = likeness.among(numbers), places[numbers]
                numbers = torch.arange(len(places), device=places.device)
        return places[numbers]


class Likeness:
    """Cosines [n, n] of the tokens of a list, with the nearest of each at hand."""

    def __init__(self, cosines: Tensor) -> None:
        self.cosines = cosines
        self.values, self.nearest = cosines.topk(min(NEAREST, len(cosines)))

    def closest(self, rows: Tensor, others: Tensor) -> Tensor:
        """[r] the largest cosine of each of `rows` [r] with one of `others` [o]."""
        is_other = torch.zeros(len(self.cosines), dtype=torch.bool, device=rows.device)
        is_other[others] = True
        # the nearest come first, so that the first of them among the others is the closest
        is_seen = is_other[self.nearest[rows]]
        first = is_seen.byte().argmax(1, keepdim=True)
        closest = self.values[rows].gather(1, first)[:, 0]
        unseen = (~is_seen.any(1)).nonzero()[:, 0]
        closest[unseen] = self.cosines[rows[unseen]][:, others].amax(1)
        return closest

    def among(self, places: Tensor) -> Likeness:
        """The same of a part of the list."""
        return Likeness(self.cosines[places][:, places])
