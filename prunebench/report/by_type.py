"""Kinds of questions: what each method keeps of each kind, and of each part of the samples by size.

by_type.csv has a row a model, method, budget, task and group. Groups are made by the kind of
question, by its complexity, by the size of the image (visual tokens available) and by the size of
the evidence (the tokens under its boxes); sizes fall into groups of about as many samples, named by
their range. What the data do not say has no rows.

Kinds of questions have a row "headline" as well: the mean over those kinds of which the unpruned
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

KIND = "type"
"""The aspect that is the kind of question."""

SIZES = {
    "complexity": ("complexity", ""),
    "image": ("available", " tokens"),
    "evidence": ("evidence_tokens", " tokens"),
}
"""By aspect, the number of a sample that says its size, and its unit."""

PARTS = 4
"""Groups that sizes fall into."""

NUMBERS = ["score", "perfect", "evidence_recall", "complexity", "available", "evidence_tokens"]

KEY = ["model", "method", "settings", "budget_kind", "budget", "task"]
COLUMNS = [*KEY, "by", "type", "n", "accuracy", "accuracy_low", "accuracy_high"]
COLUMNS += ["unpruned", "perfect", "evidence_recall", "in_headline"]


def fold(cells: Sequence[StoredCell], warn: Warn) -> pd.DataFrame:
    """The table; empty where nothing tells samples apart."""
    frames = [_samples(cell, warn) for cell in cells if cell.kind == "quality" and cell.ok]
    frames = [frame for frame in frames if not frame.empty]
    rows: list[dict[str, Any]] = []
    if frames:
        samples = pd.concat(frames, ignore_index=True)
        for _, of_task in samples.groupby(["model", "task"], sort=False):
            rows += _of_task(of_task)
    return pd.DataFrame(rows, columns=COLUMNS)


def smallest_budgets(types: pd.DataFrame) -> pd.DataFrame:
    """The rows of the unpruned model, and of every other method those at the budget at which it
    keeps least of the evidence.
    """
    parts = []
    for _, of_method in types.groupby("method", sort=False):
        heads = of_method[of_method["type"] == HEADLINE]
        if heads.empty:
            continue
        least = heads.sort_values(["evidence_recall", "accuracy"]).iloc[0]
        same = (of_method["budget"] == least["budget"]) & (
            of_method["budget_kind"] == least["budget_kind"]
        )
        parts.append(of_method[same])
    rows: pd.DataFrame = pd.concat(parts)
    return rows


def _samples(cell: StoredCell, warn: Warn) -> pd.DataFrame:
    """The samples of a cell that have a score, each with what was run."""
    try:
        kinds, numbers = cell.kinds, cell.per_sample
    except ReportError as error:
        warn(str(error))
        return pd.DataFrame()
    frame = numbers.reindex(columns=NUMBERS).dropna(subset=["score"])
    frame["type"] = None if kinds is None else kinds.reindex(frame.index)
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
    return frame.reset_index()


def _of_task(samples: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of one model on one task; every method is divided in the same way."""
    groups = _groups(samples)
    labels = {aspect: samples["sample_id"].map(names) for aspect, names in groups.items()}
    unpruned = samples["method"] == BASELINE
    full: dict[str, dict[Any, float]] = {}
    for aspect, label in labels.items():
        full[aspect] = samples[unpruned].groupby(label[unpruned])["score"].mean().to_dict()
    rows: list[dict[str, Any]] = []
    for key, of_method in samples.groupby(KEY, sort=False):
        for aspect, names in groups.items():
            about = {**dict(zip(KEY, key, strict=True)), "by": aspect}
            parts = dict(list(of_method.groupby(labels[aspect].loc[of_method.index])))
            own = []
            for name in dict.fromkeys(names):
                if name in parts:
                    own.append(_row(about, str(name), parts[name], full[aspect].get(name)))
            if aspect == KIND:
                own.append(_headline(about, own))
            rows += own
    return rows


# ---- groups --------------------------------------------------------------------------------------


def _groups(samples: pd.DataFrame) -> dict[str, pd.Series[str]]:
    """By aspect, the name of every sample's group, in the order in which groups are shown."""
    # the same of every method; one that works on pixels does not say where the evidence is
    by_sample = samples.groupby("sample_id")
    kinds = by_sample["type"].first().dropna().sort_values(kind="stable")
    groups = {KIND: kinds} if len(kinds) else {}
    for aspect, (column, unit) in SIZES.items():
        sizes = by_sample[column].first().dropna().sort_values(kind="stable")
        names = _named(sizes, unit)
        if names.nunique() > 1:
            groups[aspect] = names
    return groups


def _named(sizes: pd.Series[float], unit: str) -> pd.Series[str]:
    """The name of the group of every size: the size itself where there are few, else its range."""
    if sizes.nunique() <= PARTS:
        return sizes.map(lambda size: f"{size:g}{unit}")
    parts = pd.qcut(sizes, PARTS, labels=False, duplicates="drop")
    ends = sizes.groupby(parts).agg(["min", "max"])
    names = {}
    for part, (low, high) in ends.iterrows():
        names[part] = f"{low:g}{unit}" if low == high else f"{low:g} to {high:g}{unit}"
    return parts.map(names)


# ---- rows ----------------------------------------------------------------------------------------


def _row(
    about: dict[str, Any], group: str, samples: pd.DataFrame, unpruned: float | None
) -> dict[str, Any]:
    """One group of a method's samples."""
    scores = samples["score"].tolist()
    _, low, high = mean_interval(scores)
    can = unpruned is not None and unpruned >= ENOUGH and group not in APART
    return {
        **about,
        "type": group,
        "n": len(scores),
        "accuracy": sum(scores) / len(scores),
        "accuracy_low": low,
        "accuracy_high": high,
        "unpruned": unpruned,
        "perfect": _mean(samples, "perfect"),
        "evidence_recall": _mean(samples, "evidence_recall"),
        "in_headline": "yes" if can and about["by"] == KIND else "no",
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
