"""Runner: works through a grid. It loads one model after the other with the tasks, binds the
methods, and has the cells worked at; nobody else writes the study.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from gc import collect
from pathlib import Path
from weakref import ref

from prunebench.benchmarks import Benchmark, TaskError, check_access
from prunebench.border.text import number_of, one_line
from prunebench.models import LoadError, Unsupported
from prunebench.run import provenance
from prunebench.run.active import Run
from prunebench.run.backend import ModelSetup, setup_of
from prunebench.run.cost_cells import CostCells
from prunebench.run.fingerprint import MACHINE
from prunebench.run.grid import Grid
from prunebench.run.ledger import Ledger, Statuses
from prunebench.run.local import Executor, executor_of
from prunebench.run.progress import Silent, Watcher
from prunebench.run.quality_cells import QualityCells
from prunebench.run.store import Study, open_study
from prunebench.run.transformers_backend import TransformersBackend
from prunebench.run.work import TaskSource, Worker, load_benchmark


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
    Where a further model turns out not to load, or a task not with that model's prompts, the cells
    that need it have failed, and the others are asked.
    """
    watch = watcher if watcher is not None else Silent()
    with open_study(grid.folder()) as study, executor_of(grid, watch) as executor:
        setups = [setup_of(grid, model, executor.has_gpu) for model in grid.models]
        for setup in setups:
            # hours before their turn: a name may be wrong, a folder gone, or a login needed
            watch.doing(f"looking up {setup.model}")
            TransformersBackend.check(setup)
        for task in grid.tasks:
            watch.doing(f"looking up {task}")
            check_access(task)
        if without := grid.without_own():
            watch.note(
                f"not asked at budget own, for they have no such point: {', '.join(without)}"
            )
        models = _Models(grid, study, watch, executor)
        for setup in setups:
            models.sweep(setup)
        return Outcome(study.folder, models.statuses)


@dataclass
class _Models:
    """The models of a sweep, one at a time: two may have no room beside each other."""

    grid: Grid
    study: Study
    watch: Watcher
    executor: Executor
    benchmarks: dict[TaskSource, Benchmark] = field(default_factory=dict)
    """The tasks that were loaded; models share those with the same prompts."""
    statuses: Statuses = field(default_factory=dict)
    is_written: bool = False
    """Whether the question is written down; from then on nothing ends the sweep."""

    def sweep(self, setup: ModelSetup) -> None:
        """Load a model, and work at its cells."""
        try:
            ledger = self._loaded(setup)
            waiting = self._waiting(ledger)
        except (LoadError, Unsupported) as error:
            if not self.is_written:
                raise
            self._left_out(error, setup)
            return
        if not self.is_written:
            # only now: a question whose model, tasks or workers cannot be had is not written down
            self.study.begin(self.grid)
            self.is_written = True
        self.statuses |= _swept(ledger, waiting, self.executor)
        self.executor.end()
        model = _reference(ledger)
        del ledger, waiting
        if model() is not None:
            # objects that refer to each other may hold it; going through all takes half a second
            collect()

    def _loaded(self, setup: ModelSetup) -> Ledger:
        """The model with the tasks that it is asked."""
        self.watch.doing(f"loading {setup.model}")
        backend = self.executor.load(setup)
        manner = backend.manner
        if manner.lacking:
            self.watch.note(
                f"{setup.model}: {manner.lacking}; it is asked as its own processor does"
            )
        own = {}
        for task in self.grid.tasks:
            source = TaskSource.of(self.grid, task, manner.wrapper)
            try:
                own[source] = self._task(source)
            except TaskError as error:
                if not self.is_written:
                    raise
                self._left_out(error, setup, source.name)
        facts = provenance.collect(backend.setup, backend.facts(), {"grid": self.grid.seed})
        worker = Worker(backend, own)
        facts |= self.executor.begin(worker)
        return Ledger(self.grid, self.study, self.watch, worker, facts)

    def _waiting(self, ledger: Ledger) -> list[Run]:
        """The cells of the model that are not done, with the executor started where there is
        something to ask in one of them.
        """
        # what is done is read, and set aside where it is damaged: not in another study's folder
        self.study.check(self.grid)
        waiting = _unfinished(ledger)
        if any(run.course.ended is None for run in waiting):
            expected = ledger.provenance
            ledger.provenance = {**expected, **self.executor.start()}
            if self.grid.cost.enabled and any(
                ledger.provenance[one] != expected[one] for one in MACHINE
            ):
                # times of another machine are those of other cells
                waiting = _unfinished(ledger)
        return waiting

    def _task(self, source: TaskSource) -> Benchmark:
        """A task, loaded once for all models that are asked the same."""
        if source not in self.benchmarks:
            self.benchmarks[source] = _load_task(self.grid, source, self.watch)
        return self.benchmarks[source]

    def _left_out(self, error: Exception, setup: ModelSetup, task: str | None = None) -> None:
        """Cells that cannot be asked have failed, a model's or those of one of its tasks; what is
        stored of them stays.
        """
        tasks = self.grid.tasks if task is None else [task]
        cells = [cell for cell in self.grid.cells(tasks) if cell.model == setup.model]
        verb = "is" if len(cells) == 1 else "are"
        left_out = f"its {number_of(len(cells), 'cell')} {verb} not asked"
        self.watch.note(one_line(f"{error}; {left_out}", tail=40))
        self.statuses |= {cell.id: "failed" for cell in cells}


def _reference(ledger: Ledger) -> Callable[[], object]:
    """What tells whether the ledger's model is still in memory: it gives that, or None."""
    module = ledger.worker.backend.module
    return (lambda: None) if module is None else ref(module)


def _load_task(grid: Grid, source: TaskSource, watch: Watcher) -> Benchmark:
    """One task."""
    watch.doing(f"loading {source.name}")
    benchmark = load_benchmark(source)
    if benchmark.refusal:
        # before hours of answers that nobody could score; the other tasks go on
        watch.note(f"{benchmark.refusal}; its cells are unsupported")
    if benchmark.caution:
        watch.note(benchmark.caution)
    count = len(benchmark.requests)
    if grid.limit is not None and count < grid.limit:
        watch.note(
            f"{source.name} has {count} samples, fewer than limit={grid.limit}; all of them are "
            "asked"
        )
    return benchmark


def _unfinished(ledger: Ledger) -> list[Run]:
    """The cells of the model that are not done, each with its method bound."""
    cells = ledger.cells()
    # all are bound first: fingerprints say what is done, and a method's file may change later
    runs = {cell.id: ledger.begun(cell) for cell in cells}
    return [runs[cell.id] for cell in cells if not ledger.is_done(cell)]


def _swept(ledger: Ledger, waiting: list[Run], executor: Executor) -> Statuses:
    """Work at the cells that are waiting, the quality cells of a task at once."""
    watch = ledger.watch
    for run in waiting:
        if run.cell.kind == "quality":
            # before the calls are counted: a journal says which samples have their rows
            ledger.open_journal(run)
    ledger.tell_notes()
    calls = sum(ledger.calls(run) for run in waiting)
    count = len(ledger.cells())
    watch.begin(count, count - len(waiting), calls)
    QualityCells(ledger, executor).ask([run for run in waiting if run.cell.kind == "quality"])
    CostCells(ledger, executor).measure([run for run in waiting if run.cell.kind == "cost"])
    ledger.tell_notes()
    return ledger.statuses
