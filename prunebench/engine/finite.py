"""Finite: values that are no numbers are errors which say where they arose, never answers that
count as wrong.
"""

from __future__ import annotations

from math import isfinite

import torch
from torch import Tensor

from prunebench.engine.stream import EngineError

WAY_OUT = "try a wider dtype (bfloat16, float32) or look at the model's weights"


class NotFinite(EngineError):
    """NaN or infinity where numbers were due; the message says where it arose."""


class Finite:
    """Looks at what passes by: at once on the CPU, on other devices when `settle` is called.

    An answer that is awaited makes a GPU idle, so what it says is collected and read in one go.
    """

    def __init__(self) -> None:
        self._flags: list[tuple[str, list[int], Tensor]] = []
        self._sums: list[tuple[str, list[int], Tensor]] = []
        """What `note` collected: by place, the sum of each row."""

    def look(
        self, values: Tensor, place: str, rows: list[int], spared: Tensor | None = None
    ) -> None:
        """Look at `values` [R, ...] of the samples `rows`; `spared` [R, n] are padding, whatever
        they hold.

        Raises NotFinite, here or in `settle`.
        """
        if not values.is_floating_point():
            return
        here = values.device.type == "cpu"
        # a sum of finite values may overflow, which only means the longer way below
        if here and isfinite(values.detach().sum().item()):
            return  # the quick way: what is no number leaves no sum that is one
        fine = torch.isfinite(values)
        if spared is not None:
            # [R, n], one a position
            fine = fine.all(dim=-1) | spared
        flags = ~fine.flatten(1).all(dim=1)
        if here:
            _judge(place, rows, flags)
        else:
            self._flags.append((place, rows, flags))

    def note(
        self, values: Tensor, place: str, rows: list[int], spared: Tensor | None = None
    ) -> None:
        """The same, judged in `settle` on any device: for what comes at every step of an answer."""
        wide = torch.float64
        if spared is not None or not values.is_floating_point() or values.dtype is wide:
            self.look(values, place, rows, spared)
            return
        # exact: as wide numbers, finite values of the narrower types leave a finite sum
        self._sums.append((place, rows, values.detach().flatten(1).sum(dim=1, dtype=wide)))

    def settle(self) -> None:
        """Read what was collected; raises NotFinite for what came first."""
        flags, sums = self._flags, self._sums
        self.forget()
        _judge_all(flags, _together(flags))
        _judge_all(sums, ~_together(sums).isfinite())

    def forget(self) -> None:
        """Drop what was collected."""
        self._flags, self._sums = [], []


def _together(parts: list[tuple[str, list[int], Tensor]]) -> Tensor:
    """What was collected of all places, read in one go, on the CPU."""
    if not parts:
        return torch.empty(0)
    device = parts[0][2].device
    return torch.cat([values.to(device) for _, _, values in parts]).cpu()


def _judge_all(parts: list[tuple[str, list[int], Tensor]], flags: Tensor) -> None:
    """Raise where any of the `flags`, of all places and their rows, is set."""
    if not bool(flags.any()):
        return
    sizes = [len(values) for _, _, values in parts]
    for (place, rows, _), own in zip(parts, flags.split(sizes), strict=True):
        _judge(place, rows, own)


def _judge(place: str, rows: list[int], flags: Tensor) -> None:
    """Raise where any of the `flags` [R] is set."""
    if bool(flags.any()):
        row = rows[int(flags.nonzero()[0, 0])]
        raise NotFinite(f"{place} of sample {row} hold NaN or infinity; {WAY_OUT}")
