"""Runner: works through a grid. It cuts the cells into units of work, has them worked at, and
writes what they come to; nobody else writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from gc import collect
from pathlib import Path
from typing import Any

from prunebench.benchmarks import Benchmark, Request, check_access
from prunebench.border import images
from prunebench.border.text import one_line
from prunebench.models import LoadError, Unsupported
from prunebench.run import cost, provenance, quality
from prunebench.run.active import EXPECTED, Run
from prunebench.run.backend import ModelSetup, setup_of
from prunebench.run.cell import Cell, shown
from prunebench.run.fault import Fault, judged
from prunebench.run.fingerprint import fingerprint
from prunebench.run.grid import CONTROLS, Grid
from prunebench.run.local import Executor, Local
from prunebench.run.progress import Silent, Watcher
from prunebench.run.quality import Bound
from prunebench.run.store import Row, StoreError, Study, Vanished, open_study
from prunebench.run.summary import scored
from prunebench.run.transformers_backend import TransformersBackend
from prunebench.run.work import CellPart, Result, TaskSource, Unit, Worker, load_benchmark
from prunebench.study.record import CellRecord, Metric, Status


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
    with open_study(grid.folder()) as study:
        first, *others = [setup_of(grid, model) for model in grid.models]
        for setup in (first, *others):
            # hours before their turn: a name may be wrong, a folder gone, or a login needed
            watch.doing(f"looking up {setup.model}")
            TransformersBackend.check(setup)
        for task in grid.tasks:
            watch.doing(f"looking up {task}")
            check_access(task)
        benchmarks: dict[TaskSource, Benchmark] = {}
        run = _loaded(grid, first, study, watch, benchmarks)
        # only now: a question whose model or tasks cannot be had is not written down
        study.begin(grid)
        statuses = run()
        del run  # with its model, for two may have no room beside each other
        for setup in others:
            collect()
            try:
                run = _loaded(grid, setup, study, watch, benchmarks)
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
    benchmarks: dict[TaskSource, Benchmark],
) -> Callable[[], Statuses]:
    """Load a model, and those tasks that are not in `benchmarks` yet; gives the sweep of its
    cells.
    """
    watch.doing(f"loading {setup.model}")
    backend = TransformersBackend.load(setup)
    manner = backend.manner
    if manner.lacking:
        watch.note(f"{setup.model}: {manner.lacking}; it is asked as its own processor does")
    sources = _sources(grid, manner.wrapper)
    for source in sources:
        if source not in benchmarks:
            benchmarks[source] = _load_task(grid, source, watch)
    facts = provenance.collect(backend.setup, backend.facts(), {"grid": grid.seed})
    worker = Worker(backend, {source: benchmarks[source] for source in sources})
    return _Sweep(grid, study, watch, worker, Local(worker), facts).run


def _sources(grid: Grid, model_name: str | None) -> list[TaskSource]:
    """The tasks of the grid, in its order, with their prompts for a model of that name."""
    most = images.MAX_PIXELS if grid.max_image_pixels is None else grid.max_image_pixels
    return [TaskSource(task, grid.limit, most, model_name) for task in grid.tasks]


def _load_task(grid: Grid, source: TaskSource, watch: Watcher) -> Benchmark:
    """One task."""
    watch.doing(f"loading {source.name}")
    benchmark = load_benchmark(source)
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
    statuses: Statuses = field(default_factory=dict)
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
        for source in self.worker.benchmarks:
            here = [run for run in waiting if run.cell.task == source.name]
            self._quality(source, [run for run in here if run.cell.kind == "quality"])
        for run in waiting:
            if run.cell.kind == "cost":
                self._cost(run)
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
        run = Run(cell, requests=len(self._benchmark(cell).requests))
        variant = cell.variant
        module = type(variant.pruner).__module__
        outcome = self.worker.attempt(
            partial(self._bind, cell), self.grid.timeout, variant.label, module
        )
        bound: Bound | None = None
        if isinstance(outcome, Fault):
            run.standing.ended = replace(outcome, ends=True)
            # nothing is bound that could be hashed; refused for another reason it is another cell
            deciding = [variant.source(), variant.settings(), outcome.reason]
        else:
            bound, deciding = outcome
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
        run.opened = self.study.journal(run.cell, self.fingerprints[run.cell.id], samples)

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

    def _quality(self, source: TaskSource, runs: list[Run]) -> None:
        """All quality cells of a task, sample by sample, so that one encoding serves them all."""
        benchmark = self.worker.benchmarks[source]
        requests = self.worker.requests(source)
        by_cell = {run.cell.id: run for run in runs}
        for result in self.executor.results(self._units(source, runs)):
            run = by_cell[result.cell]
            # a worker cannot know that a cell has ended because its row could not be stored
            if run.going:
                self._take(run, result, requests.get(result.sample))
        for run in runs:
            self._finish(benchmark, run)

    def _units(self, source: TaskSource, runs: list[Run]) -> Iterator[Unit]:
        """One unit a group of samples, with the cells that are still going and miss one of them.

        Each is made when it can be begun, from what became of those before it.
        """
        requests = self.worker.benchmarks[source].requests
        number = 0
        for group in _groups(requests, self.grid.batch):
            number += len(group)
            live = [run for run in runs if run.going and run.missing(group)]
            if not live:
                continue
            cells = "1 cell" if len(live) == 1 else f"{len(live)} cells"
            self.watch.working(f"{source.name}: sample {number} of {len(requests)} in {cells}")
            yield Unit(
                setup=self.worker.backend.setup,
                task=source,
                cells=tuple(self._part(run, group) for run in live),
                samples=tuple(request.sample_id for request in group),
                timeout=self.grid.timeout,
            )

    def _part(self, run: Run, group: Sequence[Request]) -> CellPart:
        """What a cell wants of a unit, as plain data."""
        cell = run.cell
        return CellPart(
            id=cell.id,
            method=cell.variant.entry(),
            budget=None if cell.budget is None else str(cell.budget),
            seed=cell.seed,
            fingerprint=self.fingerprints[cell.id],
            # a cost cell has no journal that could be asked
            missing=tuple(run.missing(group)) if group else (),
            failures=run.standing.failures,
        )

    def _take(self, run: Run, result: Result, request: Request | None) -> None:
        """Note what a unit came to in one cell; one that fails again and again is given up."""
        fault = result.fault
        if fault is None:
            run.standing.answered()
            self._keep(run, result.rows)
        else:
            # a fault in a quality cell always comes with its sample
            assert request is not None
            # what ends a cell is its reason and no row: the next run asks the sample again
            if not fault.ends:
                self._keep(run, [quality.unanswered(request, fault.status, one_line(fault.reason))])
            run.standing.failed(fault)
            if fault.status not in EXPECTED:
                run.details.append(fault)
        # the samples that it will not be asked are over as well, or progress would never end
        if not run.going:
            self.watch.advance(run.unasked)

    def _keep(self, run: Run, rows: Sequence[Row]) -> None:
        """Store the rows that are new; of a batch some may be there already."""
        new = [row for row in rows if row["sample_id"] not in run.journal.rows]
        try:
            run.journal.append(new)
        except Vanished:
            # a StoreError as well, but with no study left there is no cell that could fail
            raise
        except StoreError as error:  # a number that is none
            run.standing.failed(replace(judged(error), ends=True))
        self.watch.advance(len(new))

    def _finish(self, benchmark: Benchmark, run: Run) -> None:
        """Score a quality cell, and write it."""
        # a continued cell has the samples that it was asked again at the end of its journal
        rows = sorted(run.journal.rows.values(), key=lambda row: row["doc_id"])
        metrics: list[Metric] = []
        status, reason = run.verdict(rows, len(benchmark.requests))
        if status == "ok" and rows:
            outcome = self.worker.attempt(partial(scored, benchmark, rows), self.grid.timeout)
            if isinstance(outcome, Fault):
                status, reason = "failed", outcome.detail
            else:
                rows, metrics = outcome
        answered = sum(row["error"] is None for row in rows)
        counts = {"asked": len(benchmark.requests), "answered": answered}
        self._write(run.cell, status, reason, metrics, {"samples": rows}, counts)

    # ---- cost ------------------------------------------------------------------------------------

    def _cost(self, run: Run) -> None:
        """Measure one cell, and write it."""
        fault = run.standing.ended
        rows: list[Row] = []
        metrics: list[Metric] = []
        if fault is None:
            self.watch.working(f"timing {run.cell.variant.label} at {run.cell.amount}")
            unit = Unit(
                setup=self.worker.backend.setup,
                task=self._source(run.cell),
                cells=(self._part(run, []),),
                timeout=self.grid.timeout,
                cost=self.grid.cost,
            )
            (result,) = self.executor.results([unit])
            fault, rows = result.fault, list(result.rows)
        self.watch.advance(cost.calls(self.grid.cost))
        if fault is not None:
            self._write(run.cell, fault.cell_status, fault.detail, [], {"pairs": []}, None)
            return
        metrics = cost.metrics(rows)
        self._write(run.cell, "ok", "", metrics, {"pairs": rows}, None)

    def _write(
        self,
        cell: Cell,
        status: Status,
        reason: str,
        metrics: list[Metric],
        tables: dict[str, list[Row]],
        counts: dict[str, int] | None,
    ) -> None:
        """Write a finished cell; `counts` say for how many samples a quality cell speaks."""
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
            control=variant.name in CONTROLS,
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
        stored = self.study.finish(cell, record, tables)
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
