"""Options: what the command `testbed train` is told."""

from dataclasses import dataclass, fields, replace

from prunebench.border.bounds import BoundsError, check, choice, whole
from prunebench.testbed.miniatures import MINIATURES, miniature
from prunebench.testbed.recipe import STEPS, TRAINING_STREAM, Schedule


@dataclass(frozen=True)
class MiniatureOptions:
    """What can be set of a miniature's training; the recipe's own values stand where nothing is
    said.

    `start` is the folder of the miniature that this one begins with. Seeds number streams of
    scenes, and from TRAINING_STREAM on these belong to the training of methods. Raises BoundsError
    for a value that cannot be.
    """

    model: str = choice("tiny-qwen2.5-vl", tuple(MINIATURES))
    start: str | None = None
    seed: int = whole(0, 0, TRAINING_STREAM - 1)
    resume: bool = True
    held_out: int = whole(1000, 1, 100_000)
    vision_steps: int | None = whole(None, 0, STEPS)
    joint_steps: int | None = whole(None, 0, STEPS)

    def __post_init__(self) -> None:
        check(self)

    @property
    def recipe(self) -> Schedule:
        """The miniature's recipe with what was set of it; raises BoundsError for steps that it does
        not have.
        """
        recipe = miniature(self.model).recipe
        steps = [option.name for option in fields(recipe) if option.name.endswith("_steps")]
        asked = {
            name: getattr(self, name)
            for name in ("vision_steps", "joint_steps")
            if getattr(self, name) is not None
        }
        for name, value in asked.items():
            if name not in steps:
                raise BoundsError(
                    f"{name} is {value}, but the recipe of {self.model} has {' and '.join(steps)}: leave it out"
                )
        return replace(recipe, **asked)
