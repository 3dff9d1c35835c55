"""Schedule: how long a run learns, and how fast."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from prunebench.border.bounds import check, number, whole

STEPS, BATCH, HELD_OUT = 1_000_000, 4096, 100_000
"""The most that can be asked for: more of any would take years, or more memory than machines have.
"""

SEED = 2**32 - 1
"""The largest seed: torch and numpy take larger ones each in their own way."""


@dataclass(frozen=True)
class Schedule:
    """How a method or an adapter learns: a linear warm-up, then a cosine.

    `warmup` is a share of the steps, `held_out` how many lessons are asked in the end. Raises
    BoundsError for a value that cannot be.
    """

    steps: int = whole(1250, 1, STEPS)
    batch: int = whole(16, 1, BATCH)
    learning_rate: float = number(1e-4, 0, open_below=True)
    warmup: float = number(0.1, 0, 1)
    seed: int = whole(0, 0, SEED)
    held_out: int = whole(200, 0, HELD_OUT)

    def __post_init__(self) -> None:
        check(self)

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        warm = max(1, round(self.warmup * self.steps))
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        progress = math.pi * (step - warm) / max(1, self.steps - warm)
        return self.learning_rate * 0.5 * (1 + math.cos(progress))


def staged_rate(
    step: int, stages: Sequence[int], warmup: int, decay: float, time_left: float = 1.0
) -> float:
    """The share of the highest learning rate at a step of several stages.

    A linear warm-up of `warmup` steps begins every stage, for the weights that it adds have no
    history; over the last `decay` (0..1) of all steps, or of the time, of which the share
    `time_left` is left, the rate falls linearly, to a fiftieth.
    """
    since = step - sum(stages[: stage_of(step, stages)])  # steps since the stage began
    every = sum(stages)
    left = min((every - step) / max(1.0, decay * every), time_left / max(decay, 1e-9))
    return min(1.0, (since + 1) / warmup, 0.02 + 0.98 * left)


def stage_of(step: int, stages: Sequence[int]) -> int:
    """The number of the stage that a step belongs to; behind the last one, the last."""
    for stage, end in enumerate(accumulate(stages)):
        if step < end:
            return stage
    return len(stages) - 1


@dataclass(frozen=True)
class TrainSchedule(Schedule):
    """How a method learns: AdamW without weight decay, as GlimpsePrune's authors train; `clip`
    bounds the gradient's norm.
    """

    clip: float = number(1.0, 0, open_below=True)


@dataclass(frozen=True)
class Tuning(Schedule):
    """How an adapter learns; defaults are GlimpsePrune+'s, but for `steps` and `batch`.

    `layer` is the one behind which everything but the evidence is dropped, -1 the one behind which
    the released models prune; `group` the answers sampled a question.
    """

    steps: int = whole(200, 1, STEPS)
    batch: int = whole(4, 1, BATCH)
    layer: int = whole(-1, -1, 10_000)
    group: int = whole(4, 2, 1024)  # of one answer alone there is no deviation
    rank: int = whole(32, 1, 65_536)
    alpha: int = whole(64, 1, 1_000_000)
    dropout: float = number(0.05, 0, 1, open_above=True)
    penalty: float = number(0.04, 0)
    temperature: float = number(1.0, 0, open_below=True)
    max_new_tokens: int = whole(8, 1, 4096)
