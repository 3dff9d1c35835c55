"""Options: what the command `testbed train` is told.

The recipes, which know torch, are imported when one is asked for: help lists the options without.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

from prunebench.border.bounds import BoundsError, check, choice, number, whole
from prunebench.learning.schedule import STEPS
from prunebench.testbed import DEFAULT, MODELS, TOWERS
from prunebench.testbed.scenes import METHODS_STREAM, MINIATURES_STREAM

if TYPE_CHECKING:
    from prunebench.testbed.recipe import Recipe

STAGES = ("vision_steps", "place_steps", "joint_steps", "finish_steps")
"""The options that are steps of a stage."""


@dataclass(frozen=True)
class MiniatureOptions:
    """What can be set of a miniature's training; where nothing is said the recipe's value stands.

    `start` is the folder of the miniature that this one begins with, left out: the shipped one. One
    of its own kind is trained further. A run draws its scenes from the stream MINIATURES_STREAM +
    seed, and from METHODS_STREAM on they belong to the training of methods. Raises BoundsError for
    a value that cannot be.
    """

    model: str = choice(DEFAULT, (*MODELS, *TOWERS))
    start: str | None = None
    seed: int = whole(0, 0, METHODS_STREAM - MINIATURES_STREAM - 1)
    resume: bool = True
    held_out: int = whole(1000, 1, 100_000)
    device: str = choice("cpu", ("cpu", "cuda"))
    workers: int = whole(0, 0, 256)
    minutes: float | None = number(None, 0, open_below=True)
    tokens: int | None = whole(None, 1, 1_000_000)
    learning_rate: float | None = number(None, 0, open_below=True)
    vision_steps: int | None = whole(None, 0, STEPS)
    place_steps: int | None = whole(None, 0, STEPS)
    joint_steps: int | None = whole(None, 0, STEPS)
    finish_steps: int | None = whole(None, 0, STEPS)

    def __post_init__(self) -> None:
        check(self)

    @property
    def recipe(self) -> Recipe:
        """The miniature's recipe with what was set of it.

        Raises BoundsError for steps of a stage that the recipe does not have.
        """
        from prunebench.testbed.miniatures import miniature

        recipe = miniature(self.model).recipe
        stages = [option.name for option in fields(recipe) if option.name.endswith("_steps")]
        changes = {}
        for name in STAGES:
            steps = getattr(self, name)
            if steps is None:
                continue
            if name not in stages:
                reason = f"the recipe of {self.model} has {' and '.join(stages)}"
                raise BoundsError(f"{name} is {steps}, but {reason}: leave it out")
            changes[name] = steps
        for name in ("tokens", "learning_rate"):
            if getattr(self, name) is not None:
                changes[name] = getattr(self, name)
        return replace(recipe, **changes)
