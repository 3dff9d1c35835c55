"""Marks: better, worse, or no difference shown, of every row against none and against random.

The methods of one model, task and budget are compared with the same reference, so that their
p-values are a family: Holm's correction stands beside each, and the mark is by what it leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prunebench.study.pairwise import BETTER, UNSHOWN, holm, mark

UPWARDS = "more_is_better"
"""What a row says of its tasks while it is folded; it is no column."""

FAMILY = ("model", "task", "budget_kind", "budget")
"""What the rows of a family have in common."""

REFERENCES = ("none", "random")


def add(rows: Sequence[dict[str, Any]]) -> None:
    """Give rows their corrected p-values and their marks."""
    for reference in REFERENCES:
        families: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        for row in rows:
            if row.get(f"difference_to_{reference}_p") is not None:
                families.setdefault(tuple(row[name] for name in FAMILY), []).append(row)
        for family in families.values():
            _mark(family, reference)
    for row in rows:
        against = row.get("against_random")
        if against is not None:
            row["better_than_random"] = "yes" if against == BETTER else "no"


def _mark(family: Sequence[dict[str, Any]], reference: str) -> None:
    name = f"difference_to_{reference}"
    corrected = holm([row[f"{name}_p"] for row in family])
    for row, p in zip(family, corrected, strict=True):
        row[f"{name}_holm"] = p
        # tasks that disagree on what is better have no answer together
        if UPWARDS not in row:
            continue
        # the interval as well, for a test and a bootstrap can disagree where there are few samples;
        # where all differ alike there is none, and the test decides
        holds_zero = row[f"{name}_low"] <= 0 <= row[f"{name}_high"]
        verdict = UNSHOWN if holds_zero else mark(row[name], p, row[UPWARDS])
        row[f"against_{reference}"] = verdict
