"""Runner: works through a grid. It cuts the cells into units of work, has them worked at, and
writes what they come to; nobody else writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from gc import collect
from itertools import chain
from pathlib import Path
from typing import Any

from prunebench.benchmarks import Benchmark, Request, check_access
from prunebench.border import images
from prunebench.border.text import one_line
from prunebench.models import LoadError, Unsupported
from prunebench.run import cost, provenance, quality
from prunebench.run.active import EXPECTED, Run
from prunebench.run.backend import ModelSetup, batch_of, setup_of
from prunebench.run.cell import Cell, shown
from prunebench.run.fault import Fault, judged
from prunebench.run.fingerprint import fingerprint
from prunebench.run.grid import CONTROLS, Grid
from prunebench.run.local import Executor, executor_of
from prunebench.run.progress import Silent, Watcher
from prunebench.run.quality import Bound
from prunebench.run.store import Row, StoreError, Study, Vanished, open_study
from prunebench.run.summary import summarized
from prunebench.run.transformers_backend import TransformersBackend
from prunebench.run.work import CellPart, Result, TaskSource, Unit, Worker, load_benchmark
from prunebench.study.cells import joined
from prunebench.study.record import BLIND, CellRecord, Metric, Status


@dataclass(frozen=True)
class Outcome:
    """A sweep that came to its end: the study's folder, and the status of every cell by its id."""

    folder: Path
    statuses: dict[str, str]

    @property
    def failed(self) -> list[str]:
        """Cells that went wrong; unsupported and infeasible ones did not, they are answers."""
        return [cell for cell, status in self.statuses.items() if status in ("failed", "oom")]


def sweep(grid: Grid, watcher: Watcher | None = None) -> Outcome:
    """Run every cell of the grid that is not finished yet, one model after the other.

    Raises StoreError, GridError, LoadError, Unsupported or TaskError before any work where the
    folder, a model or a task cannot be had; whatever goes wrong in a cell is that cell's status.
    Where a further model turns out not to load, its cells have failed, and the others are asked.
    """
    watch = watcher if watcher is not None else Silent()
    with open_study(grid.folder()) as study, executor_of(grid, watch) as executor:
        first, *others = [setup_of(grid, model, executor.has_gpu) for model in grid.models]
        for setup in (first, *others):
            # hours before their turn: a name may be wrong, a folder gone, or a login needed
            watch.doing(f"looking up {setup.model}")
            TransformersBackend.check(setup)
        for task in grid.tasks:
            watch.doing(f"looking up {task}")
            check_access(task)
        benchmarks: dict[TaskSource, Benchmark] = {}
        run = _loaded(grid, first, study, watch, executor, benchmarks)
        # only now: a question whose model or tasks cannot be had is not written down
        study.begin(grid)
        statuses = run()
        del run  # with its model, for two may have no room beside each other
        for setup in others:
            executor.end()
            collect()
            try:
                run = _loaded(grid, setup, study, watch, executor, benchmarks)
            except (LoadError, Unsupported) as error:
                statuses |= _left_out(grid, setup, watch, error)
                continue
            statuses |= run()
            del run
        return Outcome(study.folder, statuses)


Statuses = dict[str, str]
"""What has become of every cell, by its id."""


def _loaded(
    grid: Grid,
    setup: ModelSetup,
    study: Study,
    watch: Watcher,
    executor: Executor,
    benchmarks: dict[TaskSource, Benchmark],
) -> Callable[[], Statuses]:
    """Load a model, and those tasks that are not in `benchmarks` yet; gives the sweep of its
    cells.
    """
    watch.doing(f"loading {setup.model}")
    backend = executor.load(setup)
    manner = backend.manner
    if manner.lacking:
        watch.note(f"{setup.model}: {manner.lacking}; it is asked as its own processor does")
    sources = _sources(grid, manner.wrapper)
    for source in sources:
        if source not in benchmarks:
            benchmarks[source] = _load_task(grid, source, watch)
    facts = provenance.collect(backend.setup, backend.facts(), {"grid": grid.seed})
    worker = Worker(backend, {source: benchmarks[source] for source in sources})
    facts |= executor.begin(worker)
    return _Sweep(grid, study, watch, worker, executor, facts).run


def _sources(grid: Grid, model_name: str | None) -> list[TaskSource]:
    """The tasks of the grid, in its order, with their prompts for a model of that name."""
    most = images.MAX_PIXELS if grid.max_image_pixels is None else grid.max_image_pixels
    return [TaskSource(task, grid.limit, most, model_name) for task in grid.tasks]


def _load_task(grid: Grid, source: TaskSource, watch: Watcher) -> Benchmark:
    """One task."""
    watch.doing(f"loading {source.name}")
    benchmark = load_benchmark(source)
    if benchmark.refusal:
        # before hours of answers that nobody could score; the other tasks go on
        watch.note(f"{benchmark.refusal}; its cells are unsupported")
    count = len(benchmark.requests)
    if grid.limit is not None and count < grid.limit:
        watch.note(
            f"{source.name} has {count} samples, fewer than limit={grid.limit}; all of them are "
            "asked"
        )
    return benchmark


def _left_out(grid: Grid, setup: ModelSetup, watch: Watcher, error: Exception) -> Statuses:
    """The cells of a model that does not load, as failed; what is stored of them stays."""
    cells = [cell for cell in grid.cells(grid.tasks) if cell.model == setup.model]
    watch.note(one_line(f"{error}; its {len(cells)} cells are not asked", tail=40))
    return {cell.id: "failed" for cell in cells}


@dataclass
class _TaskRuns:
    """The quality cells of a task that are not done; `waiting` are the ids of those that wait for a
    sample.
    """

    source: TaskSource
    runs: list[Run]
    waiting: set[str] = field(default_factory=set)


@dataclass
class _Sweep:
    """One sweep: what it has read and loaded, and what has become of its cells so far."""

    grid: Grid
    study: Study
    watch: Watcher
    worker: Worker
    executor: Executor
    provenance: Mapping[str, Any]
    runs: dict[str, Run] = field(default_factory=dict)
    fingerprints: dict[str, str] = field(default_factory=dict)
    digests: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Hashes of every method that was bound, by its cell."""
    statuses: Statuses = field(default_factory=dict)
    unasked: int = 0
    """Samples of quality cells that have not been given out."""
    notes: int = 0
    """Notes of the study that were passed on already."""

    def run(self) -> Statuses:
        """Work at every cell of the model that is not done, the quality cells of a task at once."""
        model = self.worker.backend.setup.model
        cells = [cell for cell in self.grid.cells(self.grid.tasks) if cell.model == model]
        # all are bound first: fingerprints say what is done, and a method's file may change later
        for cell in cells:
            self.runs[cell.id] = self._begun(cell)
        waiting = [self.runs[cell.id] for cell in cells if not self._is_done(cell)]
        for run in waiting:
            if run.cell.kind == "quality":
                # before the calls are counted: a journal says which samples have their rows
                self._open_journal(run)
        self._tell_notes()
        calls = sum(self._calls(run) for run in waiting)
        self.watch.begin(len(cells), len(cells) - len(waiting), calls)
        self._quality([run for run in waiting if run.cell.kind == "quality"])
        self._costs([run for run in waiting if run.cell.kind == "cost"])
        self._tell_notes()
        return self.statuses

    def _tell_notes(self) -> None:
        """What the study has set aside since the last time."""
        for note in self.study.notes[self.notes :]:
            self.watch.note(note)
        self.notes = len(self.study.notes)

    # ---- before the work -------------------------------------------------------------------------

    def _benchmark(self, cell: Cell) -> Benchmark:
        return self.worker.benchmarks[self._source(cell)]

    def _source(self, cell: Cell) -> TaskSource:
        """The task of a cell, as it was loaded."""
        return next(one for one in self.worker.benchmarks if one.name == cell.task)

    def _begun(self, cell: Cell) -> Run:
        """Bind the cell's method to the model, and note what decides its answers; a method that
        fails fails alone.
        """
        # what becomes of samples is a matter of quality cells alone
        requests = self._benchmark(cell).requests if cell.kind == "quality" else ()
        run = Run(cell, [request.sample_id for request in requests])
        variant = cell.variant
        module = type(variant.pruner).__module__
        refusal = self._benchmark(cell).refusal if cell.kind == "quality" else ""
        outcome: tuple[Bound, list[Any]] | Fault = Fault("unsupported", refusal, refusal)
        if not refusal:
            outcome = self.worker.attempt(
                partial(self._bind, cell), self.grid.timeout, variant.label, module
            )
        bound: Bound | None = None
        if isinstance(outcome, Fault):
            run.course.refused(replace(outcome, ends=True))
            # nothing is bound that could be hashed; refused for another reason it is another cell
            deciding = [variant.source(), variant.settings(), outcome.reason]
        else:
            bound, deciding = outcome
            self.digests[cell.id] = tuple(map(str, deciding[1:]))
        digest = self.fingerprints[cell.id] = self._fingerprint(cell, deciding)
        if bound is not None:
            self.worker.keep(cell.id, digest, bound)
        return run

    def _bind(self, cell: Cell) -> tuple[Bound, list[Any]]:
        """The method on the model, with hashes of all that decides its answers."""
        backend, variant = self.worker.backend, cell.variant
        method = backend.ready(variant.pruner)
        bound = Bound(variant.pruner, method, cell.budget, cell.seed, variant.positions)
        return bound, [variant.positions, *backend.digests(method)]

    def _is_done(self, cell: Cell) -> bool:
        record = self.study.result(cell, self.fingerprints[cell.id])
        if record is None:
            return False
        self.statuses[cell.id] = record.status
        return True

    def _open_journal(self, run: Run) -> None:
        samples = {}
        for request in self._benchmark(run.cell).requests:
            samples[request.sample_id] = request.doc_id
        run.open(self.study.journal(run.cell, self.fingerprints[run.cell.id], samples))

    def _calls(self, run: Run) -> int:
        """How often a cell still calls `generate`."""
        # only quality cells have a journal
        return cost.calls(self.grid.cost) if run.opened is None else run.unasked

    def _fingerprint(self, cell: Cell, method: list[Any]) -> str:
        """What makes the cell this one; `method` are hashes of what decides its answers."""
        task = self._benchmark(cell).fingerprint
        backend = self.worker.backend
        return fingerprint(cell, self.grid, backend, task, method, self.provenance)

    # ---- quality ---------------------------------------------------------------------------------

    def _quality(self, runs: list[Run]) -> None:
        """All quality cells, task by task and sample by sample, so that one encoding serves them
        all. The cells of a task are finished together, once none of them waits for a sample.
        """
        by_cell = {run.cell.id: run for run in runs}
        tasks = [_TaskRuns(source, []) for source in self.worker.benchmarks]
        for task in tasks:
            task.runs += [run for run in runs if self._source(run.cell) == task.source]
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
                self._end(by_source[self._source(run.cell)], run)
        for task in tasks:
            if task.waiting:
                raise RuntimeError(f"nobody answered all samples of {sorted(task.waiting)[0]}")

    def _units(self, source: TaskSource, runs: list[Run]) -> Iterator[Unit]:
        """One unit a group of samples, with the cells that miss one of them.

        Each is made when it can be begun, from what has come of those before it.
        """
        requests = self.worker.benchmarks[source].requests
        number = 0
        for group in _groups(requests, batch_of(self.grid, self.worker.backend)):
            number += len(group)
            parts = [self._part(run, group) for run in runs if run.missing(group)]
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

    def _part(self, run: Run, group: Sequence[Request] = ()) -> CellPart:
        """What a cell wants of a unit, as plain data."""
        cell = run.cell
        return CellPart(
            id=cell.id,
            method=cell.variant.entry(),
            budget=None if cell.budget is None else str(cell.budget),
            seed=cell.seed,
            fingerprint=self.fingerprints[cell.id],
            digests=self.digests[cell.id],
            # a cost cell has no journal that could be asked
            missing=tuple(run.missing(group)) if group else (),
            failures=run.course.failures_before(group[0].sample_id) if group else 0,
        )

    def _take(self, run: Run, result: Result) -> None:
        """Note what a unit came to in one cell; one that fails again and again is given up."""
        fault, sample = result.fault, result.sample
        if fault is None:
            rows = [row for row in result.rows if run.course.counts(row["sample_id"])]
            self._keep(run, rows)
        elif run.course.counts(sample):
            request = self.worker.requests(self._source(run.cell))[sample]
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
        self._write(run.cell, status, reason, metrics, {"samples": rows}, counts, kept)

    # ---- cost ------------------------------------------------------------------------------------

    def _costs(self, runs: list[Run]) -> None:
        """Measure cells one by one, and write each."""
        by_cell = {run.cell.id: run for run in runs}
        for run in runs:
            if run.course.ended is not None:
                self._priced(run, Result(run.cell.id, fault=run.course.ended))
        going = [run for run in runs if run.course.ended is None]
        for result in self.executor.results(self._cost_units(going)):
            self._priced(by_cell[result.cell], result)

    def _cost_units(self, runs: list[Run]) -> Iterator[Unit]:
        """One unit a cell."""
        for run in runs:
            self.watch.working(f"timing {run.cell.variant.label} at {run.cell.amount}")
            yield Unit(
                setup=self.worker.backend.setup,
                task=self._source(run.cell),
                cells=(self._part(run),),
                timeout=self.grid.timeout,
                cost=self.grid.cost,
            )

    def _priced(self, run: Run, result: Result) -> None:
        """Write a cost cell."""
        self.watch.advance(cost.calls(self.grid.cost))
        fault, rows = result.fault, list(result.rows)
        if fault is not None:
            self._write(run.cell, fault.cell_status, fault.detail, [], {"pairs": []}, None)
            return
        self._write(run.cell, "ok", "", cost.metrics(rows), {"pairs": rows}, None)

    def _write(
        self,
        cell: Cell,
        status: Status,
        reason: str,
        metrics: list[Metric],
        tables: dict[str, list[Row]],
        counts: dict[str, int] | None,
        kept: Mapping[str, bytes] | None = None,
    ) -> None:
        """Write a finished cell; `counts` say for how many samples a quality cell speaks, `kept`
        are files of its task.
        """
        benchmark, variant = self._benchmark(cell), cell.variant
        record = CellRecord(
            id=cell.id,
            fingerprint=self.fingerprints[cell.id],
            kind=cell.kind,
            model=shown(cell.model),
            method=variant.label,
            pruner=variant.name,
            pruner_source=variant.source(),
            settings=variant.settings(),
            control=variant.name in (*CONTROLS, BLIND),
            budget=cell.amount,
            budget_kind=cell.budget_kind,
            task=shown(cell.task),
            seed=cell.seed,
            status=status,
            reason=reason,
            samples=counts,
            metric=benchmark.primary,
            higher_is_better=benchmark.higher_is_better(benchmark.primary),
            metrics=tuple(metrics),
            provenance=dict(self.provenance),
        )
        # numbers that are none make a cell fail where it is written
        stored = self.study.finish(cell, record, tables, kept or {})
        self.statuses[cell.id] = stored.status
        self.watch.finished(cell.id, stored.status, stored.reason)


def _groups(requests: Sequence[Request], size: int) -> list[list[Request]]:
    """Up to `size` samples in a row that are generated with the same settings; always the same
    groups.
    """
    groups: list[list[Request]] = []
    for request in requests:
        if groups and len(groups[-1]) < size and groups[-1][0].generation == request.generation:
            groups[-1].append(request)
        else:
            groups.append([request])
    return groups
