"""Frontier: the rows that are more accurate than all that is cheaper, by more than chance.

Going from the cheapest row on, a row joins where its 95 % interval lies above the accuracy of every
row that costs no more, and of every control at its own budget. So neither the luck of a few
questions nor a clock that reads a control as slower makes a step. A number without an interval
counts as it stands.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from prunebench.report.board import records

Row = dict[str, Any]


def frontier(rows: pd.DataFrame, cost: str) -> list[Row]:
    """The rows of one model that are on it, the cheapest first; `cost` is the column of which less
    is better.
    """
    # of equal cost the most accurate first, so that the others do not make it
    by_cost = records(rows.sort_values([cost, "accuracy"], ascending=[True, False]))
    controls = [row for row in by_cost if row["control"] == "true"]
    best: list[Row] = []
    for place, row in enumerate(by_cost):
        rivals = by_cost[:place]
        if row not in controls:
            rivals = [*rivals, *(one for one in controls if _budget(one) == _budget(row))]
        if all(_least(row) > rival["accuracy"] for rival in rivals):
            best.append(row)
    return best


def _least(row: Row) -> float:
    """The low end of the accuracy's interval, or the accuracy where it has none."""
    low = row.get("accuracy_low")
    return float(row["accuracy"] if low is None or pd.isna(low) else low)


def _budget(row: Row) -> tuple[str, str]:
    return row["budget_kind"], row["budget"]
