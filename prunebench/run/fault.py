"""Fault: what went wrong with a sample or a cell, as a status and a reason."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import cast

import torch

from prunebench.benchmarks import MediaError
from prunebench.border.text import clean, message
from prunebench.budget import BudgetError
from prunebench.models.base import Unsupported
from prunebench.study.record import SampleStatus, Status
from prunebench.trained import BrokenWeights

REASON = 20_000
"""Characters of a reason that are kept, traceback included."""


@dataclass(frozen=True)
class Fault:
    """What went wrong: `reason` in one line, `detail` with the traceback where there is one.

    `media` says that an image could not be read, `ends` that the cell cannot go on.
    """

    status: SampleStatus
    reason: str
    detail: str
    media: bool = False
    ends: bool = False

    @property
    def cell_status(self) -> Status:
        """The status of a cell that ends with this."""
        return cell_status(self.status)


def cell_status(status: str) -> Status:
    """The status of a cell all of whose samples have this one."""
    if status in ("oom", "unsupported", "infeasible"):
        return cast(Status, status)
    return "failed"


def judged(error: BaseException) -> Fault:
    """What an exception means for the sample it was raised for; the traceback is told where it is a
    failure.
    """
    text = message(error)
    # on a CPU torch raises a mere RuntimeError
    no_memory = isinstance(error, torch.OutOfMemoryError | MemoryError)
    if no_memory or "can't allocate memory" in text:
        return Fault("oom", text, text)
    # ahead of Unsupported, of which it is a kind
    if isinstance(error, BrokenWeights):
        return Fault("failed", text, text)
    if isinstance(error, Unsupported):
        return Fault("unsupported", text, text)
    if isinstance(error, BudgetError):
        return Fault("infeasible", text, text)
    if isinstance(error, MediaError):
        return Fault("failed", text, text, media=True)
    reason = f"{type(error).__name__}: {text}"
    return Fault("failed", reason, _limited(f"{reason}\n{_traceback(error)}"))


def _traceback(error: BaseException) -> str:
    try:
        return clean("".join(traceback.format_exception(error)))
    except Exception:  # an exception whose text cannot be had
        return clean("".join(traceback.format_tb(error.__traceback__)))


def _limited(text: str) -> str:
    """The text without its middle where it is very long."""
    if len(text) <= REASON:
        return text
    half = REASON // 2
    return f"{text[:half]}\n[...]\n{text[-half:]}"
