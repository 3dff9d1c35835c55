"""The profile of a model: what it answers when all visual tokens leave before a layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prunebench.study.statistics import Interval

ENOUGH = 0.97
"""The share of the unpruned score from which on nothing that counts is lost."""


@dataclass(frozen=True)
class Level:
    """The model without visual tokens from layer `before` on; `before` as many as it has layers is
    the unpruned model.

    `score` is the task's own, `by_type` that of each kind of question. `on_image` and `on_evidence`
    are the shares of the last prompt token's attention, in the layer that comes before, that fall
    on the image and on the evidence in it, averaged over heads, and `best_head` the most of any
    head's; None where there is no layer before, or no evidence.
    """

    before: int
    score: Interval
    by_type: Mapping[str, float]
    on_image: float | None
    on_evidence: float | None
    best_head: float | None


@dataclass(frozen=True)
class Profile:
    """A model's levels in order, and the share of visual tokens that is evidence."""

    model: str
    task: str
    samples: int
    levels: tuple[Level, ...]
    evidence: float | None

    @property
    def layers(self) -> int:
        """Layers of the language model."""
        return len(self.levels) - 1

    @property
    def affordable(self) -> int:
        """The first layer before which all visual tokens can go at less than 3 % of the score."""
        full = self.levels[-1].score.value
        return next(one.before for one in self.levels if one.score.value >= ENOUGH * full)
