"""Kinds of questions: what each method keeps of each kind, and the headline that is made of them.

Where samples say of which kind their question is, by_type.csv has a row a model, method, budget,
task and kind, and a row "headline" for all of them: the mean over those kinds of which the unpruned
model answers enough. Counting all objects stands apart, for a model may count by the mass of tokens
and not by objects; what a perfect reader of the surviving tokens would answer stands beside.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from prunebench.report.comparison import Warn
from prunebench.study.cells import ReportError, StoredCell
from prunebench.study.record import BASELINE
from prunebench.study.statistics import mean_interval

HEADLINE = "headline"
"""The row that stands for all kinds."""

ENOUGH = 0.8
"""What the unpruned model must reach in a kind for it to count: of what it cannot do anyway, a
method cannot lose anything.
"""

APART = ("count",)
"""The kinds that never count: all objects of an image are counted."""

KEY = ["model", "method", "settings", "budget_kind", "budget", "task"]
COLUMNS = [*KEY, "type", "n", "accuracy", "accuracy_low", "accuracy_high"]
COLUMNS += ["unpruned", "perfect", "evidence_recall", "in_headline"]


def fold(cells: Sequence[StoredCell], warn: Warn) -> pd.DataFrame:
    """The table; empty where no sample says of which kind it is."""
    frames = [_samples(cell, warn) for cell in cells if cell.kind == "quality" and cell.ok]
    frames = [frame for frame in frames if not frame.empty]
    if not frames:
        return pd.DataFrame(columns=COLUMNS)
    samples = pd.concat(frames, ignore_index=True)
    unpruned = samples[samples["method"] == BASELINE]
    full = unpruned.groupby(["model", "task", "type"])["score"].mean().to_dict()
    rows: list[dict[str, Any]] = []
    for key, of_method in samples.groupby(KEY, sort=False):
        about = dict(zip(KEY, key, strict=True))
        kinds = [_row(about, str(kind), part, full) for kind, part in of_method.groupby("type")]
        rows += [*kinds, _headline(about, kinds)]
    return pd.DataFrame(rows, columns=COLUMNS)


def smallest_budgets(types: pd.DataFrame) -> pd.DataFrame:
    """The rows of the unpruned model, and of every other method those at the budget at which it
    keeps least of the evidence.
    """
    parts = []
    for _, of_method in types.groupby("method", sort=False):
        heads = of_method[of_method["type"] == HEADLINE]
        least = heads.sort_values(["evidence_recall", "accuracy"]).iloc[0]
        same = (of_method["budget"] == least["budget"]) & (
            of_method["budget_kind"] == least["budget_kind"]
        )
        parts.append(of_method[same])
    rows: pd.DataFrame = pd.concat(parts)
    return rows


def _samples(cell: StoredCell, warn: Warn) -> pd.DataFrame:
    """The samples of a cell that say of which kind they are, each with what was run."""
    try:
        kinds, numbers = cell.kinds, cell.per_sample
    except ReportError as error:
        warn(str(error))
        return pd.DataFrame()
    if kinds is None:
        return pd.DataFrame()
    frame = numbers.assign(type=kinds).dropna(subset=["type", "score"])
    about = {
        "model": cell.model,
        "method": cell.method,
        "settings": cell.settings_line,
        "budget_kind": cell.budget_kind,
        "budget": cell.budget,
        "task": cell.task,
    }
    for name, value in about.items():
        frame[name] = value
    return frame


def _row(
    about: dict[str, Any], kind: str, samples: pd.DataFrame, full: dict[Any, float]
) -> dict[str, Any]:
    """One kind of question."""
    scores = samples["score"].tolist()
    _, low, high = mean_interval(scores)
    unpruned = full.get((about["model"], about["task"], kind))
    counts = unpruned is not None and unpruned >= ENOUGH and kind not in APART
    return {
        **about,
        "type": kind,
        "n": len(scores),
        "accuracy": sum(scores) / len(scores),
        "accuracy_low": low,
        "accuracy_high": high,
        "unpruned": unpruned,
        "perfect": _mean(samples, "perfect"),
        "evidence_recall": _mean(samples, "evidence_recall"),
        "in_headline": "yes" if counts else "no",
    }


def _headline(about: dict[str, Any], kinds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The mean over the kinds that count."""
    rows = pd.DataFrame([row for row in kinds if row["in_headline"] == "yes"], columns=COLUMNS)
    means = {}
    for name in ("accuracy", "unpruned", "perfect", "evidence_recall"):
        values = rows[name].astype(float)
        means[name] = float(values.mean()) if len(values) else None
    return {**about, "type": HEADLINE, "n": int(rows["n"].sum()), **means, "in_headline": "yes"}


def _mean(samples: pd.DataFrame, name: str) -> float | None:
    """The mean of a column over the samples that have it."""
    if name not in samples or samples[name].isna().all():
        return None
    return float(samples[name].mean())
