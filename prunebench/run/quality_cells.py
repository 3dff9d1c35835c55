"""Quality cells: their samples given out in units, and what comes back taken down, scored and
written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain

from prunebench.benchmarks import Benchmark
from prunebench.border.text import one_line
from prunebench.run import quality
from prunebench.run.active import EXPECTED, Run
from prunebench.run.backend import batch_of
from prunebench.run.fault import Fault, judged
from prunebench.run.ledger import Ledger
from prunebench.run.local import Executor
from prunebench.run.samples import groups_of
from prunebench.run.store import Row, StoreError, Vanished
from prunebench.run.summary import summarized
from prunebench.run.work import Result, TaskSource, Unit
from prunebench.study.cells import joined
from prunebench.study.record import Metric


@dataclass
class _TaskRuns:
    """The quality cells of a task that are not done; `waiting` are the ids of those that wait for a
    sample.
    """

    source: TaskSource
    runs: list[Run]
    waiting: set[str] = field(default_factory=set)


class QualityCells:
    """The quality cells of a model; `unasked` counts their samples that have not been given out."""

    def __init__(self, ledger: Ledger, executor: Executor) -> None:
        self.ledger, self.executor = ledger, executor
        self.grid, self.watch, self.worker = ledger.grid, ledger.watch, ledger.worker
        self.unasked = 0

    def ask(self, runs: list[Run]) -> None:
        """All quality cells, task by task and sample by sample, so that one encoding serves them
        all. The cells of a task are finished together, once none of them waits for a sample.
        """
        by_cell = {run.cell.id: run for run in runs}
        tasks = [_TaskRuns(source, []) for source in self.worker.benchmarks]
        for task in tasks:
            task.runs += [run for run in runs if self.ledger.source(run.cell) == task.source]
            task.waiting |= {run.cell.id for run in task.runs}
        for task in tasks:
            for run in task.runs:
                # one that was refused, or has all its rows, gives nothing out that could end it
                self._end(task, run)
        by_source = {task.source: task for task in tasks}
        self.unasked = sum(run.unasked for run in runs if run.going)
        units = chain.from_iterable(self._units(task.source, task.runs) for task in tasks)
        for result in self.executor.results(units, lambda: self.unasked):
            run = by_cell[result.cell]
            if run.going:
                self._take(run, result)
                self._end(by_source[self.ledger.source(run.cell)], run)
        for task in tasks:
            if task.waiting:
                raise RuntimeError(f"nobody answered all samples of {sorted(task.waiting)[0]}")

    def _units(self, source: TaskSource, runs: list[Run]) -> Iterator[Unit]:
        """One unit a group of samples, with the cells that miss one of them.

        Each is made when it can be begun, from what has come of those before it.
        """
        requests = self.worker.benchmarks[source].requests
        number = 0
        for group in groups_of(requests, batch_of(self.grid, self.worker.backend)):
            number += len(group)
            parts = [self.ledger.part(run, group) for run in runs if run.missing(group)]
            if not parts:
                continue
            self.unasked -= sum(len(part.missing) for part in parts)
            cells = "1 cell" if len(parts) == 1 else f"{len(parts)} cells"
            self.watch.working(f"{source.name}: sample {number} of {len(requests)} in {cells}")
            yield Unit(
                setup=self.worker.backend.setup,
                task=source,
                cells=tuple(parts),
                samples=tuple(request.sample_id for request in group),
                timeout=self.grid.timeout,
            )

    def _take(self, run: Run, result: Result) -> None:
        """Note what a unit came to in one cell; one that fails again and again is given up."""
        fault, sample = result.fault, result.sample
        if fault is None:
            rows = [row for row in result.rows if run.course.counts(row["sample_id"])]
            self._keep(run, rows)
        elif run.course.counts(sample):
            request = self.worker.requests(self.ledger.source(run.cell))[sample]
            # what ends a cell is its reason and no row: the next run asks the sample again
            if not fault.ends:
                self._keep(run, [quality.unanswered(request, fault.status, one_line(fault.reason))])
            run.course.failed(sample, fault)
            if fault.status not in EXPECTED:
                run.faults[sample] = fault

    def _keep(self, run: Run, rows: Sequence[Row]) -> None:
        """Store the rows that are new; of a batch some may be there already."""
        new = [row for row in rows if row["sample_id"] not in run.journal.rows]
        if not new:
            return
        try:
            run.journal.append(new)
        except Vanished:
            # a StoreError as well, but with no study left there is no cell that could fail
            raise
        except StoreError as error:  # a number that is none
            run.course.failed(new[0]["sample_id"], replace(judged(error), ends=True))
        else:
            for row in new:
                run.course.answered(row["sample_id"])
        self._tell(run, len(new))

    def _tell(self, run: Run, samples: int) -> None:
        """Samples of a cell are over."""
        run.samples_told += samples
        self.watch.advance(samples)

    def _end(self, task: _TaskRuns, run: Run) -> None:
        """Where a cell waits for no further sample, note that, and finish its task's cells with the
        last of them.
        """
        if run.going or run.cell.id not in task.waiting:
            return
        # the samples that it is not asked are over as well, or progress would never end
        self._tell(run, len(run.samples) - run.samples_told)
        task.waiting.remove(run.cell.id)
        if not task.waiting:
            for one in task.runs:
                self._finish(self.worker.benchmarks[task.source], one)

    def _finish(self, benchmark: Benchmark, run: Run) -> None:
        """Score a quality cell, and write it."""
        rows = run.rows()
        metrics: list[Metric] = []
        kept: dict[str, bytes] = {}
        status, reason = run.verdict(rows, len(benchmark.requests))
        if status == "ok" and rows:
            outcome = self.worker.attempt(partial(summarized, benchmark, rows), self.grid.timeout)
            if isinstance(outcome, Fault):
                status, reason = "failed", outcome.detail
            else:
                rows, metrics, kept = outcome.rows, outcome.metrics, outcome.files
                reason = joined([reason, *outcome.notes])
        answered = sum(row["error"] is None for row in rows)
        counts = {"asked": len(benchmark.requests), "answered": answered}
        self.ledger.write(run.cell, status, reason, metrics, {"samples": rows}, counts, kept)
