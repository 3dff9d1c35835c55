"""Machine: whether it was quiet enough for times to mean something.

The one rule of it, for the cost pass of a sweep and for a bench alike.
"""

from __future__ import annotations

from math import isnan
from typing import Literal

State = Literal["busy", "quiet"]

BUSY: State = "busy"
QUIET: State = "quiet"

NOISE = 0.1
"""How far from 1 the interval of the unpruned model's time over its own may reach: the times of
methods lie no further apart than that, so that a wider one tells none of them from another.
"""

RULE = (
    f"{BUSY} where the 95 % interval of the unpruned model's time over its own does not hold 1, or "
    f"reaches further than {100 * NOISE:.0f} % from it: such times say nothing"
)
"""The rule in words, as the documentation has it too."""


def state(low: float | None, high: float | None) -> State | None:
    """What the interval of the unpruned model's time over its own says of the machine; None where
    there is none, for too few runs.
    """
    if low is None or high is None or isnan(low) or isnan(high):
        return None
    holds_one = low <= 1 <= high
    return QUIET if holds_one and low >= 1 - NOISE and high <= 1 + NOISE else BUSY
