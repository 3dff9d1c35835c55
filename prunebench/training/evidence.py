"""Evidence: a pruner that keeps the tokens which show a lesson's evidence, and no others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from prunebench.budget import Budget, Stage
from prunebench.models import Loaded
from prunebench.pruner import Pruner
from prunebench.sites import Site, llm
from prunebench.tokens import Keep, VisualTokens
from prunebench.training.batch import Inputs, layouts_of, target
from prunebench.training.lesson import Lesson


@dataclass(frozen=True)
class Evidence(Pruner):
    """Keeps the tokens that show the evidence, which `targets`, one a sample, name; no method, but
    what tuning prunes by.
    """

    layer: int = 0
    targets: tuple[Tensor, ...] = ()
    dynamic: ClassVar[bool] = True

    def site(self) -> Site:
        return llm(self.layer + 1)

    def plan(self, budget: Budget | None, available: int, layers: int) -> tuple[Stage, ...]:
        """One stage, whatever the budget: how many are kept is the evidence's to say."""
        return (Stage(self.site(), available, compact=True),)

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        # `seed` numbers the samples: the session hands it through, however often generate repeats a
        # prompt
        return Keep(self.targets[tokens.seed].nonzero()[:, 0])


def evidence_of(loaded: Loaded, inputs: Inputs, lessons: Sequence[Lesson], layer: int) -> Evidence:
    """The pruner of these lessons, behind a layer."""
    targets = []
    for layout, lesson in zip(layouts_of(loaded, inputs, lessons), lessons, strict=True):
        targets.append(target(layout, lesson))
    return Evidence(layer, tuple(targets))
