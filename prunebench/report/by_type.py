"""Kinds of questions: what each method keeps of each kind, and of each part of the samples by size.

by_type.csv has a row a model, method, budget, task and group. Groups are made by the kind of
question, by its complexity, by the size of the image (visual tokens available) and by the size of
the evidence (the tokens under its boxes); sizes fall into groups of about as many samples, named by
their range. What the data do not say has no rows. Intervals draw the questions of one image, and
the answers of all seeds to one question, together.

Kinds of questions have a row "headline" as well: the mean over those kinds of which the unpruned
model answers enough. Counting all objects stands apart, for a model may count by the mass of tokens
and not by objects; what a perfect reader of the surviving tokens would answer stands beside.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd

from prunebench.report import tables
from prunebench.report.comparison import Warn, cluster_codes
from prunebench.study.cells import ReportError, StoredCell
from prunebench.study.record import BASELINE
from prunebench.study.samples import NAN, Array, Codes, Samples, Vector, aligned
from prunebench.study.statistics import parted_ends

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

TOGETHER = 1_000_000
"""Samples of groups of methods whose numbers are made together."""

NUMBERS = ["score", "perfect", "evidence_recall", "complexity", "available", "evidence_tokens"]

KEY = ["model", "method", "settings", "budget_kind", "budget", "task"]
COLUMNS = [*KEY, "by", "type", "n", "accuracy", "accuracy_low", "accuracy_high"]
COLUMNS += ["unpruned", "perfect", "evidence_recall", "in_headline"]


def fold(cells: Sequence[StoredCell], warn: Warn) -> pd.DataFrame:
    """The table; empty where nothing tells samples apart."""
    by_task: dict[tuple[str, str], list[_Answers]] = {}
    for cell in cells:
        if cell.kind != "quality" or not cell.ok:
            continue
        try:
            answers = _Answers(cell, cell.samples_read)
        except ReportError as error:
            warn(str(error))
            continue
        if answers.mask.any():
            by_task.setdefault((cell.model, cell.task), []).append(answers)
    table: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    for of_task in by_task.values():
        for row in _Task(of_task, warn).rows():
            for name, column in table.items():
                column.append(row.get(name))
    return pd.DataFrame(table, columns=COLUMNS)


def lines(types: pd.DataFrame) -> Iterator[str]:
    """The lines of the table."""
    return map(tables.line, types.itertuples(index=False, name=None))


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


class _Answers:
    """A cell's samples that have a score: `mask` [n] says which those are."""

    def __init__(self, cell: StoredCell, samples: Samples) -> None:
        self.cell = cell
        self.key = cell.line
        self.unpruned = cell.method == BASELINE
        self.samples = samples
        self.mask = ~np.isnan(samples.numbers["score"])

    def number(self, name: str) -> Vector:
        """One of their numbers, NaN where there is none."""
        own = self.samples.numbers.get(name)
        values = np.full(len(self.mask), NAN) if own is None else own
        return Vector(self.samples.ids, np.where(self.mask, values, NAN))

    def kinds(self) -> dict[str, str]:
        """The kind of every question that has one, by its sample."""
        labels = self.samples.labels.get("question_type")
        if labels is None:
            return {}
        mask = self.mask & labels.present
        return dict(zip(labels.ids[mask], labels.texts[mask], strict=True))


class _Task:
    """One model on one task: all numbers of its cells [n, cells] over the same samples; every
    method is divided in the same way, and its samples are drawn with the same others.
    """

    def __init__(self, cells: Sequence[_Answers], warn: Warn) -> None:
        self._cells = cells
        self._numbers: dict[str, Array] = {}
        for name in NUMBERS:
            self._ids, values = aligned([cell.number(name) for cell in cells])
            self._numbers[name] = np.column_stack(values)
        self._groups = self._divided()
        clusters = cluster_codes([answers.cell for answers in cells], self._ids, warn)
        self._clusters = np.arange(len(self._ids)) if clusters is None else clusters

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows of every method, the group of all seeds together."""
        by_key: dict[tuple[str, ...], list[int]] = {}
        for place, cell in enumerate(self._cells):
            by_key.setdefault(cell.key, []).append(place)
        unpruned = [place for place, cell in enumerate(self._cells) if cell.unpruned]
        full, parts = {}, {}
        for aspect, (codes, names) in self._groups.items():
            full[aspect] = self._parts([unpruned], codes, len(names))[0]
            parts[aspect] = self._parts(list(by_key.values()), codes, len(names))
        for number, key in enumerate(by_key):
            for aspect, (_, names) in self._groups.items():
                about = {**dict(zip(KEY, key, strict=True)), "by": aspect}
                own = []
                for part, name in enumerate(names):
                    if part in parts[aspect][number]:
                        of_unpruned = full[aspect].get(part)
                        best = None if of_unpruned is None else of_unpruned["accuracy"]
                        own.append(_row(about, name, parts[aspect][number][part], best))
                yield from own
                if aspect == KIND:
                    yield _headline(about, own)

    def _divided(self) -> dict[str, tuple[Codes, list[str]]]:
        """By aspect, the number of every sample's group [n], -1 where it has none, and the names of
        the groups in the order in which they are shown.
        """
        # the same of every method; one that works on pixels does not say where the evidence is
        kinds: dict[str, str] = {}
        last: tuple[object, bytes] | None = None
        for cell in reversed(self._cells):
            # most cells say it of the same samples in the same words
            key = cell.samples.labels.get("question_type"), cell.mask.tobytes()
            if key != last:
                kinds.update(cell.kinds())
            last = key
        groups = {}
        if kinds:
            of_sample = pd.Series(kinds, dtype=object).reindex(self._ids)
            names = sorted(set(kinds.values()))
            groups[KIND] = _coded(of_sample, names), names
        for aspect, (column, unit) in SIZES.items():
            sizes = pd.Series(_first(self._numbers[column]), index=self._ids)
            named = _named(sizes.dropna().sort_values(kind="stable"), unit)
            if named.nunique() > 1:
                names = list(dict.fromkeys(named))
                groups[aspect] = _coded(named.reindex(self._ids), names), names
        return groups

    def _parts(
        self, methods: Sequence[Sequence[int]], codes: Codes, count: int
    ) -> list[dict[int, dict[str, Any]]]:
        """For every method the numbers of every one of `count` groups, over the samples of the
        cells at its places.
        """
        every: list[dict[int, dict[str, Any]]] = []
        step = max(1, TOGETHER // max(1, count * len(codes)))
        for start in range(0, len(methods), step):
            every += self._some_parts(methods[start : start + step], codes, count)
        return every

    def _some_parts(
        self, methods: Sequence[Sequence[int]], codes: Codes, count: int
    ) -> list[dict[int, dict[str, Any]]]:
        """The same of no more methods than fit in memory."""
        places = list(chain.from_iterable(methods))
        owners = np.repeat(np.arange(len(methods)), list(map(len, methods)))
        scores = self._numbers["score"][:, places]
        mask = ~np.isnan(scores) & (codes >= 0)[:, None]
        # one number for a group of a method
        parts = codes[:, None] + count * owners
        of_score = parts[mask]
        size = count * len(methods)
        counts = np.bincount(of_score, minlength=size)
        # all seeds ask the same questions, so the answers to one are drawn together as well
        clusters = np.broadcast_to(self._clusters[:, None], scores.shape)[mask]
        ends = parted_ends(scores[mask], of_score, clusters, count, len(methods))
        sums = {"accuracy": np.bincount(of_score, weights=scores[mask], minlength=size)}
        sizes = {"accuracy": counts}
        for name in ("perfect", "evidence_recall"):
            values = self._numbers[name][:, places]
            own = mask & ~np.isnan(values)
            sums[name] = np.bincount(parts[own], weights=values[own], minlength=size)
            sizes[name] = np.bincount(parts[own], minlength=size)
        means = {}
        for name, of_parts in sums.items():
            with np.errstate(invalid="ignore"):  # of none there is no mean
                means[name] = (of_parts / sizes[name]).tolist()
        # a question that several seeds answer counts once
        is_answered = np.zeros((len(codes), len(methods)), dtype=bool)
        for number, own in enumerate(
            np.split(mask, np.cumsum(list(map(len, methods)))[:-1], axis=1)
        ):
            is_answered[:, number] = own.any(axis=1)
        of_question = (codes[:, None] + count * np.arange(len(methods)))[is_answered]
        questions = np.bincount(of_question, minlength=size)
        every: list[dict[int, dict[str, Any]]] = [{} for _ in methods]
        for number in np.flatnonzero(counts).tolist():
            part: dict[str, Any] = {"n": int(questions[number]), "ends": ends[number]}
            for name, values_of in means.items():
                value = values_of[number]
                part[name] = value if value == value else None
            every[number // count][number % count] = part
        return every


# ---- groups --------------------------------------------------------------------------------------


def _coded(texts: pd.Series[str], names: Sequence[str]) -> Codes:
    """[n] the places of texts among the names, -1 where there is none."""
    places = {name: place for place, name in enumerate(names)}
    return np.array([places.get(text, -1) for text in texts], dtype=np.intp)


def _first(values: Array) -> Array:
    """[n] of every sample the number of the first cell of [n, cells] that has one, else NaN."""
    present = ~np.isnan(values)
    first = present.argmax(axis=1)
    return np.asarray(values[np.arange(len(values)), first])


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
    about: dict[str, Any], group: str, part: dict[str, Any], unpruned: float | None
) -> dict[str, Any]:
    """One group of a method's samples."""
    low, high = part["ends"]
    can = unpruned is not None and unpruned >= ENOUGH and group not in APART
    return {
        **about,
        "type": group,
        "n": part["n"],
        "accuracy": part["accuracy"],
        "accuracy_low": low,
        "accuracy_high": high,
        "unpruned": unpruned,
        "perfect": part["perfect"],
        "evidence_recall": part["evidence_recall"],
        "in_headline": "yes" if can and about["by"] == KIND else "no",
    }


def _headline(about: dict[str, Any], kinds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The mean over the kinds that count."""
    rows = [row for row in kinds if row["in_headline"] == "yes"]
    means = {}
    for name in ("accuracy", "unpruned", "perfect", "evidence_recall"):
        values = [row[name] for row in rows if row[name] is not None]
        means[name] = float(np.mean(values)) if values else None
    n = sum(row["n"] for row in rows)
    return {**about, "type": HEADLINE, "n": n, **means, "in_headline": "yes"}
