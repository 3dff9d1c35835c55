"""Trial: what the tasks of a grid need and give, tried out before hours of answers.

A task is loaded, its first samples are read, and made-up answers go through its own scoring. No
model answers anything.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from numpy import isclose

from prunebench import benchmarks
from prunebench.benchmarks import Benchmark, MediaError, TaskError
from prunebench.border.interruption import interrupts
from prunebench.border.text import message, number_of, one_line
from prunebench.run.backend import setup_of
from prunebench.run.cell import Cell
from prunebench.run.grid import Grid
from prunebench.run.summary import SCORE, summarized
from prunebench.run.transformers_backend import TransformersBackend
from prunebench.run.work import TaskSource, load_benchmark
from prunebench.study.cells import joined

LOOKED_AT = 4
"""Samples whose media are read."""

ANSWERED = 12
"""Samples that get made-up answers."""

LONGEST = 20
"""Characters of a reference that may pass for an answer."""


PARTLY = re.compile("no interval|stand without those|scored by a guess")
"""What a summary notes of so few answers, or of made-up ones, whatever the task."""


@dataclass(frozen=True)
class Trial:
    """How a task, or a model, fared; `fault` is why it cannot be served, empty where it can.

    `cells` and `calls` of generate are those of the grid; `paired` says that samples have numbers
    of their own, so that a method and the unpruned model can be compared sample by sample.
    """

    name: str
    fault: str = ""
    samples: int = 0
    media: str = ""
    metric: str = ""
    paired: bool = False
    cells: int = 0
    calls: int = 0
    note: str = ""

    @property
    def ok(self) -> bool:
        """Whether it can be served."""
        return not self.fault

    @property
    def line(self) -> str:
        """What there is to say of it."""
        if self.fault:
            return f"{self.name}: {self.fault}"
        if not self.samples:
            return f"{self.name}: {self.note}"
        statistics = "paired statistics" if self.paired else "no paired statistics"
        parts = [
            number_of(self.samples, "sample"),
            self.media,
            self.metric,
            statistics,
            f"{number_of(self.cells, 'cell')}, {number_of(self.calls, 'call')}",
            self.note,
        ]
        return f"{self.name}: {'; '.join(part for part in parts if part)}"


def tried(grid: Grid) -> Iterator[Trial]:
    """The models of a grid, then its tasks, each as soon as it was tried."""
    for model in grid.models:
        try:
            TransformersBackend.check(setup_of(grid, model))
        except ValueError as error:
            yield Trial(f"model {model}", one_line(message(error), 300))
        else:
            yield Trial(f"model {model}", note="is there, of a family that is known")
    cells = [cell for cell in grid.cells(grid.tasks) if cell.kind == "quality"]
    for task in grid.tasks:
        yield _tried(grid, task, [cell for cell in cells if cell.task == task])


def _tried(grid: Grid, name: str, cells: Sequence[Cell]) -> Trial:
    """One task; whatever its own code raises is its fault, and no other's."""
    try:
        benchmarks.check_access(name)
        benchmark = load_benchmark(TaskSource.of(grid, name, None))
        if benchmark.refusal:
            return Trial(name, one_line(benchmark.refusal, 300))
        media, unread = _media(benchmark)
        paired, unscored = _scored(benchmark)
    except TaskError as error:
        return Trial(name, one_line(message(error), 300))
    except BaseException as error:  # code of others, which may raise anything
        if interrupts(error):
            raise
        return Trial(name, one_line(f"{type(error).__name__}: {message(error)}", 300))
    samples = len(benchmark.requests)
    return Trial(
        name=name,
        samples=samples,
        media=media,
        metric=benchmark.primary,
        paired=paired,
        cells=len(cells),
        calls=samples * len(cells),
        note="; ".join(note for note in (unread, unscored) if note),
    )


def _media(benchmark: Benchmark) -> tuple[str, str]:
    """What the first samples show, and a note on those that cannot be read; raises TaskError where
    none can.
    """
    contents: Counter[str] = Counter()
    faults = []
    requests = benchmark.requests[:LOOKED_AT]
    for request in requests:
        try:
            contents[_content(benchmark.messages(request))] += 1
        except MediaError as error:
            faults.append(message(error))
    if not contents:
        raise TaskError(f"none of the first {len(requests)} samples can be read: {faults[0]}")
    note = (
        f"{len(faults)} of the first {len(requests)} cannot be read: {faults[0]}" if faults else ""
    )
    return contents.most_common(1)[0][0], note


def _content(messages: Sequence[dict[str, Any]]) -> str:
    """What one sample shows: "1 image of 640x480", "2 images", "1 video", "text alone"."""
    sizes: list[tuple[int, int]] = []
    videos = 0
    for turn in messages:
        parts = [] if isinstance(turn["content"], str) else turn["content"]
        sizes += [part["url"].size for part in parts if part["type"] == "image"]
        videos += sum(part["type"] == "video" for part in parts)
    if videos:
        return f"{videos} video" + "s" * (videos > 1)
    if not sizes:
        return "text alone, nothing to prune"
    width, height = sizes[0]
    size = f" of {width}x{height}" if len(sizes) == 1 else ""
    return f"{len(sizes)} image" + "s" * (len(sizes) > 1) + size


def _scored(benchmark: Benchmark) -> tuple[bool, str]:
    """Whether samples have numbers whose mean the task's number is, and what is to be said of it.

    Raises Unscored where the task's code can score no answer.
    """
    rows = []
    count = max(ANSWERED, benchmark.scoring.reviewed.whole)
    for number, request in enumerate(benchmark.requests[:count]):
        right = number % 2 == 0 and len(request.reference) <= LONGEST
        rows.append(
            {
                "sample_id": request.sample_id,
                "doc_id": request.doc_id,
                "prediction": request.reference if right else "Yes",
                "error": None,
            }
        )
    result = summarized(benchmark, rows)
    primary = next((metric for metric in result.metrics if metric.metric == SCORE), None)
    # that so few have no interval, or miss their partners, says nothing of all
    notes = [note for note in result.notes if not PARTLY.search(note)]
    if primary is None or primary.value is None:
        reason = joined(notes) or f"{benchmark.primary} has no number for made-up answers"
        if not result.files:
            raise TaskError(reason)
        return False, reason
    scores = [row[SCORE] for row in result.rows if row["error"] is None]
    has_all = all(score is not None for score in scores)
    return has_all and bool(isclose(sum(scores) / len(scores), primary.value)), joined(notes)
