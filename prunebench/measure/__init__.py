"""Measurements: FLOPs, latency, memory and evidence recall of a pruned model, each a list of
metrics in the end.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """One measured number with its uncertainty: a row of the tidy table.

    `stderr` and the 95 % interval `ci_low`, `ci_high` are None where `n` observations cannot give
    them; `higher_is_better` is None for a number that only describes.
    """

    metric: str
    value: float
    unit: str
    stderr: float | None
    ci_low: float | None
    ci_high: float | None
    n: int
    higher_is_better: bool | None
