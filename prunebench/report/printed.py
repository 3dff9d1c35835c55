"""Printed: what papers print stands beside what was measured, where they print the same.

A row of a public model on a public task finds the printed entries of its method at its budget: as
many tokens, or the same share of them. They are shown as the own paper's value and the range of
others, with why they may differ, and are never averaged. The comparison is of shares of the
unpruned value, for the unpruned values differ too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

import pandas as pd

from prunebench.report.headings import ALL
from prunebench.study.record import BASELINE, BLIND

METRIC = "metric"
"""What a row says of its task while it is folded; it is no column."""

PRUNER = "pruner"
"""What a row says of its method while it is folded: the name in the registry, or a file. Labels are
whatever a grid calls it.
"""

COUNTING = ("mean", "input")
"""The kinds of budgets that tables may mean; they do not say which."""

CLOSE_TOKENS, CLOSE_SHARE = 0.02, 0.005
"""How far a printed budget may be from a row's: of its tokens, and as a share."""


def add(rows: Sequence[dict[str, Any]]) -> None:
    """Give rows what is printed of the same."""
    candidates = [row for row in rows if _is_public(row["model"]) and row["task"] != ALL]
    if not candidates:
        return
    from prunebench.published import model_name, read

    table = read()
    for row in candidates:
        of_task = table[
            (table["model"] == model_name(row["model"])) & (table["benchmark"] == row["task"])
        ]
        of_task = _of_metric(of_task, row.get(METRIC) or "")
        if of_task.empty:
            continue
        if row["method"] == BASELINE:
            _add_unpruned(row, of_task)
        else:
            _add_method(row, of_task)


def _is_public(model: str) -> bool:
    """Whether tables know the model at all; they are read for those alone."""
    from prunebench.published import model_name, names

    return model_name(model) in names("model")


def _of_metric(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The rows of the metric that a cell counts; all where a benchmark is printed in one alone,
    none where nothing says which.
    """
    names = sorted(set(rows["metric"]))
    if len(names) <= 1:
        return rows
    fitting = [name for name in names if name in metric]
    return rows[rows["metric"].isin(fitting)]


def _add_unpruned(row: dict[str, Any], rows: pd.DataFrame) -> None:
    """The unpruned model, of which every table prints its own value."""
    values = rows.dropna(subset=["upper_bound"]).drop_duplicates("source")["upper_bound"]
    if len(values):
        row |= _range(values) | {"published_why": "every table's own unpruned value"}


def _add_method(row: dict[str, Any], rows: pd.DataFrame) -> None:
    """A method at its budget."""
    from prunebench.published import entries

    pruner = row.get(PRUNER) or row["method"]
    name = "no_visual_tokens" if pruner == BLIND else pruner
    rows = _at_budget(row, rows[rows["method"] == name])
    if (rows["finetuned"] == "no").any():
        rows = rows[rows["finetuned"] == "no"]
    printed_entries = list(entries(rows))
    if not printed_entries:
        return
    own: list[float] = []
    others: list[float] = []
    own_shares: list[float] = []
    other_shares: list[float] = []
    why: dict[str, None] = {}
    for entry in printed_entries:
        own += entry.own
        others += entry.others
        own_shares += entry.own_shares
        other_shares += entry.other_shares
        why.update(dict.fromkeys(entry.why))
    row |= _range(others)
    row["published_own"] = own[0] if own else None
    shares = own_shares or other_shares
    relative = row.get("relative_accuracy")
    if shares and relative is not None:
        row["published_gap"] = 100 * relative - median(shares)
    kind = row["budget_kind"] or "mean"
    measured = [f"measured: {kind} budget, lmms-eval's prompts"]
    if row["method"] != pruner:
        measured.append(f"as {pruner} with {row['settings']}")
    row["published_why"] = "; ".join([*measured, *why])


def _at_budget(row: dict[str, Any], rows: pd.DataFrame) -> pd.DataFrame:
    """The rows at the budget of a leaderboard's row, which is counted as tables may count it."""
    if row["method"] == BLIND:
        return rows
    available = row.get("tokens_available") or 0.0
    try:
        budget = float(row["budget"])
    except ValueError:  # an operating point of the method's own is a budget of nobody else's
        return rows[:0]
    if row["budget_kind"] not in COUNTING or not available:
        return rows[:0]
    tokens = budget if row["budget"].isdigit() else budget * available
    by_tokens = (rows["budget_kind"] == "tokens") & (
        (rows["budget"] - tokens).abs() <= CLOSE_TOKENS * tokens
    )
    by_share = (rows["budget_kind"] == "share") & (
        (rows["budget"] - tokens / available).abs() <= CLOSE_SHARE
    )
    return rows[by_tokens | by_share]


def _range(values: Iterable[float]) -> dict[str, Any]:
    numbers = list(values)
    if not numbers:
        return {"published_count": 0}
    return {
        "published_least": min(numbers),
        "published_most": max(numbers),
        "published_count": len(numbers),
    }
