"""Clock: whether the machine was quiet enough for a row's times to mean something, and how much of
what could be saved was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from prunebench.report.comparison import Group, average
from prunebench.report.headings import CEILINGS, ITSELF, MACHINE
from prunebench.study import statistics
from prunebench.study.machine import BUSY, state

TIMES = ("prefill_ratio", "total_ratio")
"""The columns of the leaderboard that a clock has made."""


def columns(parts: Sequence[Group]) -> dict[str, Any]:
    """The columns of a row whose tasks have these groups, as far as its cost was measured."""
    row: dict[str, Any] = {}
    intervals = []
    for part in parts:
        interval = part.interval("latency_itself_ratio")
        if interval is not None:
            intervals.append(interval)
    if intervals:
        whole = intervals[0] if len(intervals) == 1 else statistics.pool(intervals)
        ends = whole.value, whole.low, whole.high
        row |= dict(zip(ITSELF.names, ends, strict=True))
        row[MACHINE.name] = state(whole.low, whole.high)
    for heading in CEILINGS:
        values = []
        for part in parts:
            value = average(part.cost, heading.name)
            if value is not None:
                values.append(value)
        if values:
            row[heading.name] = sum(values) / len(values)
    return row


def is_spoiled(row: Mapping[str, Any], column: str) -> bool:
    """Whether a busy machine spoiled what a row of the leaderboard has in that column."""
    return column in TIMES and row.get(MACHINE.name) == BUSY


def on_busy_machine(rows: pd.DataFrame, column: str) -> pd.Series[bool]:
    """Which of the rows have a number in that column that a busy machine spoiled."""
    if column not in TIMES or MACHINE.name not in rows:
        return pd.Series(False, index=rows.index)
    return rows[MACHINE.name] == BUSY
