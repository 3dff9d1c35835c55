"""Options: what the commands `train` and `reinforce` take; how a run learns is its schedule's part.

Whatever knows torch is imported when a value is checked, so that help can list the options.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from prunebench import testbed
from prunebench.border.bounds import BoundsError, choice, path, shown
from prunebench.learning.schedule import Schedule, TrainSchedule, Tuning

S = TypeVar("S", bound=Schedule)

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Place:
    """Which model learns from which data, on what, and where the run lies.

    `out` None is a folder under results/scratch.
    """

    model: str = testbed.DEFAULT
    data: str = "scenes"
    out: str | None = None
    device: str = "cpu"
    dtype: str = choice("float32", DTYPES)

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[misc]  # the schedule's, which comes behind
        check_device(self.device)

    def folder(self, name: str) -> Path:
        """The run's folder; `name` says what is run, where nobody chose one."""
        return path("out", self.out) if self.out else Path("results/scratch") / name


@dataclass(frozen=True)
class TrainOptions(Place, TrainSchedule):
    """The options of `train`.

    `sizes` changes the sizes of the module from the method's own choice, `start` is a folder of
    weights to begin with.
    """

    start: str | None = None
    sizes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ReinforceOptions(Place, Tuning):
    """The options of `reinforce`."""


def schedule_of(kind: type[S], options: S) -> S:
    """The part of the options that is the schedule."""
    return kind(**{part.name: getattr(options, part.name) for part in fields(kind)})


def check_device(text: str) -> None:
    """Raise BoundsError for a device that this machine does not have."""
    import torch

    fault = f"device is {shown(text)}; it is cpu, cuda or cuda:NUMBER"
    try:
        device = torch.device(text)
    except (RuntimeError, ValueError):
        raise BoundsError(fault) from None
    # cpu:0 is the same as cpu
    if device.type == "cpu" and not device.index:
        return
    if device.type != "cuda":
        raise BoundsError(fault)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        raise BoundsError(f"device is {shown(text)}, but torch sees no GPU here; use device=cpu")
    if (device.index or 0) >= count:
        way_out = f"torch sees {count} GPUs here; they count from 0"
        raise BoundsError(f"device is {shown(text)}, but {way_out}")
