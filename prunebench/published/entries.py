"""Entries: what is printed of one method at one budget on one benchmark, and why it may differ.

An entry keeps the value of the method's own paper apart from those of others, and never makes one
number of them. Its reasons are facts of the rows: what their notes say of budgets, hints, frames
and harness, where not all of them say the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pandas as pd

from prunebench.published.agreement import KEY
from prunebench.published.table import OWN_PAPER

REASONS: Mapping[str, tuple[str, ...]] = {
    "budget convention": (
        r"average(d)? tokens( over layers)?",
        r"retain up to this many tokens",
        r"FastV keeps all tokens before its layer",
        r"share retained counts the KV cache",
        r"budget is (the TFLOP ratio|the FLOPs share|what stays behind layer K)",
        r"K=\d+",
    ),
    "hints": (r"without OCR hints",),
    "harness": (r"lmms-eval(, default settings)?", r"LLM judge"),
    "frames": (r"\d+ frames",),
    "resolution": (
        r"input fixed at \d+x\d+",
        r"at most \d+ (visual )?tokens",
        "dynamic",
    ),
    "who ran it": (
        r"rerun from official code",
        r"rerun by the paper",
        r"taken from an earlier paper",
        r"taken from VisionZip's paper",
        r"third-party rerun",
    ),
    "doubts": (
        r"equal what other tables print",
        r"shifted",
        r"inferred",
        r"split(s)? not stated",
        r"model size not stated",
        r"out of memory",
    ),
}
"""Why two numbers of one name may differ, and how notes speak of it."""

HINTED = "textvqa"
"""The benchmark that is two tasks: with the words that a reader of letters found, and without."""

SILENT = "not said"

WORD = (
    "tables count tokens that enter the language model, that stay behind an early layer, or their "
    "average over layers, by the same word"
)


@dataclass(frozen=True)
class Entry:
    """One method at one budget on one benchmark.

    `own` holds the distinct values of its own paper, `others` a value a source; `own_shares` and
    `other_shares` are the same in percent of the unpruned value of the same table, where that is
    printed, and `unpruned` the range of these. `why` says by what the rows may differ.
    """

    model: str
    method: str
    benchmark: str
    metric: str
    budget_kind: str
    budget: float
    finetuned: bool
    own: tuple[float, ...]
    others: tuple[float, ...]
    own_shares: tuple[float, ...]
    other_shares: tuple[float, ...]
    unpruned: tuple[float, float] | None
    why: tuple[str, ...]


def entries(rows: pd.DataFrame) -> Iterator[Entry]:
    """An entry for every method, budget and benchmark of the rows."""
    # tables of one source repeat its numbers
    rows = rows.drop_duplicates([*KEY, "source", "value"])
    for _, group in rows.groupby(KEY, sort=True):
        first = group.iloc[0]
        own = group[group["reported_by"] == OWN_PAPER]
        others = group[group["reported_by"] != OWN_PAPER].drop_duplicates("source")
        bounds = group["upper_bound"].dropna()
        yield Entry(
            model=first["model"],
            method=first["method"],
            benchmark=first["benchmark"],
            metric=first["metric"],
            budget_kind=first["budget_kind"],
            budget=float(first["budget"]),
            finetuned=first["finetuned"] == "yes",
            own=tuple(sorted(set(own["value"]))),
            others=tuple(sorted(others["value"])),
            own_shares=_shares(own),
            other_shares=_shares(others),
            unpruned=(float(bounds.min()), float(bounds.max())) if len(bounds) else None,
            why=tuple(_why(group)),
        )


def _shares(rows: pd.DataFrame) -> tuple[float, ...]:
    """Percent of the unpruned value of the same table."""
    shares = 100 * rows["value"] / rows["upper_bound"]
    return tuple(sorted(float(share) for share in shares.dropna()))


def _why(rows: pd.DataFrame) -> Iterator[str]:
    """By what rows may differ: statements of their notes that not all of them make."""
    rows = rows.drop_duplicates("source")
    if len(rows) > 1:
        for reason, patterns in REASONS.items():
            counts: dict[str, int] = {}
            for note in rows["note"]:
                words = _statement(note, patterns) or SILENT
                counts[words] = counts.get(words, 0) + 1
            if set(counts) != {SILENT}:
                listed = ", ".join(f"{words} ({count})" for words, count in counts.items())
                yield f"{reason}: {listed}"
        bounds = rows["upper_bound"].dropna()
        if len(bounds) and bounds.max() > bounds.min():
            yield f"unpruned value: {bounds.min():g} to {bounds.max():g}"
    if rows["benchmark"].iloc[0].startswith(HINTED) and "hints" not in " ".join(rows["note"]):
        yield "hints: no source says whether it gave the letters that a reader found"
    if rows["budget_kind"].iloc[0] == "tokens" and len(rows) > 1:
        yield f"budget convention: {WORD}"


def _statement(note: str, patterns: tuple[str, ...]) -> str:
    """What a note says of one of the reasons; empty where nothing."""
    for pattern in patterns:
        match = re.search(pattern, note)
        if match is not None:
            return match.group(0)
    return ""
