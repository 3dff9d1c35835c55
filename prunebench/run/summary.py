"""Summary: the rows of a quality cell folded into its numbers, scored by the task itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from prunebench.benchmarks import Benchmark
from prunebench.benchmarks.scoring import Marks
from prunebench.border.text import one_line
from prunebench.run.parts import Parts, parts_of
from prunebench.study.columns import SAMPLES, Column
from prunebench.study.record import Metric
from prunebench.study.statistics import clustered_interval
from prunebench.study.tables import Row

SCORE = "score"
"""The name under which every cell has the number of its task's primary metric."""

UNIT = "score"
"""The unit of what a task gives, where it is not reviewed to be another."""

NO_NUMBER = "none"
"""The unit of a metric that has no number, such as a file for a task's own server."""


@dataclass
class Scored:
    """The rows with their scores, and the cell's numbers; `notes` say what has no number or no
    interval, and why. `files` are to be kept in the cell's folder.
    """

    rows: list[Row]
    metrics: list[Metric] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)


class Unscored(ValueError):
    """A cell none of whose answers the task's own code can score."""


def scored(benchmark: Benchmark, rows: Sequence[Row]) -> tuple[list[Row], list[Metric]]:
    """Rows with their score, and the cell's numbers, as `summarized` has them."""
    summary = summarized(benchmark, rows)
    return summary.rows, summary.metrics


def summarized(benchmark: Benchmark, rows: Sequence[Row]) -> Scored:
    """Rows with their score, and the cell's numbers over the samples that were answered.

    What goes wrong in the task's own code costs a sample its score, or a metric its number. Raises
    Unscored where no sample has a score.
    """
    answered = [row for row in rows if row["error"] is None]
    marks = benchmark.scored({row["doc_id"]: row["prediction"] for row in answered})
    scores, faults = marks.scores, marks.faults
    if faults and not scores:
        raise Unscored(f"no answer can be scored: {next(iter(faults.values()))}")
    result = Scored(_with_faults(rows, faults))
    result.notes += _notes(benchmark, result.rows, marks)
    fair = [row for row in answered if row["doc_id"] in scores]
    in_order = [scores[row["doc_id"]] for row in fair]
    parts = _fold(benchmark, in_order, images_of(fair), result)
    for row in result.rows:
        own = scores.get(row["doc_id"])
        row[SCORE] = None if own is None else benchmark.value(own, benchmark.primary)
        row["group"] = None if own is None else benchmark.scoring.group(own.get(benchmark.primary))
    if parts is not None and parts.scores is not None:
        _fill(benchmark, result.rows, scores, parts.scores)
    clusters = drawn_together(benchmark, fair, scores)
    for column in SAMPLES:
        if column.metric:
            result.metrics += _column_mean(column, fair, clusters)
    return result


def _notes(benchmark: Benchmark, rows: Sequence[Row], marks: Marks) -> list[str]:
    """What is to be said of how the answers were scored, whatever their numbers; `rows` bear their
    faults.
    """
    notes = []
    if marks.faults:
        first = next(row for row in rows if row["doc_id"] in marks.faults)
        sample, reason = first["sample_id"], first["error"]
        notes.append(f"{len(marks.faults)} answers have no score: sample {sample}: {reason}")
    if marks.guesses:
        notes.append(
            f"{len(marks.guesses)} answers are scored by a guess, which the task makes where it "
            "finds no option in one; it is the same for the same sample in every cell"
        )
    if benchmark.caution:
        notes.append(benchmark.caution)
    alone = benchmark.scoring.without_partners(marks.scores)
    if alone:
        notes.append(f"{len(alone)} answers stand without those that they are scored with")
    return notes


def images_of(rows: Sequence[Row]) -> list[str]:
    """What every sample shows; one of which that is not known shows what no other does."""
    return [row.get("image") or f"sample {row['sample_id']}" for row in rows]


def drawn_together(
    benchmark: Benchmark, rows: Sequence[Row], scores: Mapping[int, Mapping[str, Any]]
) -> list[str]:
    """What every sample is drawn with: those that the task scores together, or else its image, as
    in the report's comparisons.
    """
    groups = []
    for row in rows:
        own = scores[row["doc_id"]].get(benchmark.primary)
        groups.append(benchmark.scoring.group(own))
    if any(group is not None for group in groups):
        alone = [f"sample {row['sample_id']}" for row in rows]
        return [group or own for group, own in zip(groups, alone, strict=True)]
    return images_of(rows)


def _with_faults(rows: Sequence[Row], faults: Mapping[int, str]) -> list[Row]:
    """The rows, with why those have no score that the task's code raises on."""
    marked = []
    for row in rows:
        fault = faults.get(row["doc_id"]) if row["error"] is None else None
        if fault is not None:
            row = {**row, "status": "failed", "error": f"the task cannot score it: {fault}"}
        marked.append({**row, SCORE: None, "group": None})
    return marked


def _fill(
    benchmark: Benchmark,
    rows: Sequence[Row],
    scores: Mapping[int, Mapping[str, Any]],
    parts: Sequence[float],
) -> None:
    """Give the samples what they add to the primary metric; `parts` are of those that have it, in
    the order of the rows.
    """
    having = [row for row in rows if benchmark.primary in scores.get(row["doc_id"], {})]
    for row, part in zip(having, parts, strict=True):
        row[SCORE] = part


def _fold(
    benchmark: Benchmark,
    scores: Sequence[Mapping[str, Any]],
    images: Sequence[str],
    result: Scored,
) -> Parts | None:
    """Put what the task makes of the samples' own values into `result`, its primary metric also as
    the score; the parts of that are returned.
    """
    primary = benchmark.primary
    primary_parts: Parts | None = None
    for name in _names(scores):
        values = [own[name] for own in scores if name in own]
        shown_images = [image for image, own in zip(images, scores, strict=True) if name in own]
        fold = benchmark.fold(name, values)
        for place, content in fold.files.items():
            result.files[place] = content
        better = benchmark.higher_is_better(name)
        unit = benchmark.scoring.reviewed.unit or UNIT
        parts = Parts(note=fold.note)
        metric = Metric(name, unit=NO_NUMBER, n=len(values))
        if fold.value is not None:
            if not fold.parts:
                numbers = [benchmark.value(own, name) for own in scores if name in own]
                parts = parts_of(
                    benchmark, name, fold.value, values, numbers, _shared(shown_images)
                )
            metric = Metric(name, fold.value, unit, *parts.interval, len(values), better)
        result.metrics.append(metric)
        if name == primary and fold.value is not None:
            result.metrics.append(replace(metric, metric=SCORE))
        for key, number in fold.parts.items():
            part = Metric(f"{name}{key}", number, UNIT, None, None, None, len(values), better)
            result.metrics.append(part)
        # a file beside the number that counts is no lack; its row says what it is
        if parts.note and (name == primary or not fold.files):
            what = "no number" if fold.value is None else "no interval"
            result.notes.append(one_line(f"{name} has {what}: {parts.note}"))
        if name == primary:
            primary_parts = parts
    return primary_parts


def _names(scores: Sequence[Mapping[str, Any]]) -> list[str]:
    """Every metric that a sample has, in order of first appearance."""
    names: dict[str, None] = {}
    for own in scores:
        names.update(dict.fromkeys(own))
    return list(names)


def _shared(names: Sequence[str]) -> Sequence[str] | None:
    """The names, where two are the same."""
    return names if len(set(names)) < len(names) else None


def _column_mean(column: Column, rows: Sequence[Row], clusters: Sequence[str]) -> list[Metric]:
    """The mean of a column over the samples that have it; none where no sample does."""
    numbers, names = [], []
    for row, name in zip(rows, clusters, strict=True):
        number = row.get(column.name)
        if number is not None:
            numbers.append(float(number))
            names.append(name)
    if not numbers:
        return []
    n = len(numbers)
    mean = sum(numbers) / n
    interval = clustered_interval(numbers, _shared(names))
    better = column.higher_is_better
    return [Metric(column.metric, mean, column.unit, *interval, n, better)]
