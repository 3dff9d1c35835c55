"""Board: what the terminal and the figures ask of a leaderboard that was loaded."""

from __future__ import annotations

from typing import Any

import pandas as pd

from prunebench.border.text import one_line, percent
from prunebench.report.leaderboard import ALL
from prunebench.study.record import BASELINE, BLIND, OWN

NAME = 60
"""Characters of a budget's name that a line bears."""

TOKEN_KINDS = ("mean", "input", "kv")
"""What budgets can count; each has a column of tokens."""


def overall(board: pd.DataFrame) -> pd.DataFrame:
    """The rows that stand for a whole model: its "all" rows, or those of its only task."""
    over_tasks = board["task"] == ALL
    pooled_models = set(board.loc[over_tasks, "model"])
    return board[over_tasks | ~board["model"].isin(pooled_models)]


def records(board: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as dictionaries."""
    rows = []
    for row in board.to_dict("records"):
        rows.append({str(name): value for name, value in row.items()})
    return rows


def budget_kind(board: pd.DataFrame) -> str:
    """The kind of tokens that a study's budgets count: that of its rows where they agree, else the
    mean over layers.
    """
    of_methods = ~board["method"].isin([BASELINE, BLIND])  # these two have no budget
    # and an operating point of a method's own counts nothing
    of_methods &= board["budget"] != OWN
    kinds = set(board.loc[of_methods, "budget_kind"])
    for kind in TOKEN_KINDS:
        if kinds == {kind}:
            return kind
    return "mean"


def budget_label(row: dict[str, Any]) -> str:
    """The budget as it was asked: "25 %", "64", with its kind where that is not the mean."""
    kind, budget = row["budget_kind"], row["budget"]
    prefix = f"{one_line(kind, NAME)}:" if kind not in ("", "mean") else ""
    try:
        amount = float(budget)
    except ValueError:
        return prefix + one_line(budget, NAME)
    return prefix + (budget if budget.isdigit() else percent(amount, ".3g"))
