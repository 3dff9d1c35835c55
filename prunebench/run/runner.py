"""Runner: works through a grid, sample by sample, so that one encoding serves every method and budget."""

from __future__ import annotations

import hashlib
import json
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from prunebench import models
from prunebench.benchmarks import Benchmark, MediaError, Request, load_task
from prunebench.budget import BudgetError
from prunebench.measure import Metric
from prunebench.models.base import Unsupported
from prunebench.run import cost, provenance, quality
from prunebench.run import prompt as prompts
from prunebench.run.cell import Cell, Status, shown
from prunebench.run.grid import CONTROLS, Grid, GridError
from prunebench.run.progress import Silent, Watcher
from prunebench.run.store import Journal, Row, Study, open_study
from prunebench.run.summary import scored

MINIATURE = 100_000_000
"""Parameters below which a model is one."""


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
    """Run every cell of the grid that is not finished yet.

    Raises StoreError, LoadError, Unsupported or TaskError before any work where the folder, the model or a task cannot be had;
    whatever goes wrong in a cell is that cell's status.
    """
    watch = watcher if watcher is not None else Silent()
    with open_study(grid.folder()) as study:
        return _Sweep(grid, study, watch).run()


class _Sweep:
    def __init__(self, grid: Grid, study: Study, watch: Watcher) -> None:
        self.grid, self.study, self.watch = grid, study, watch
        self.device = ("cuda" if torch.cuda.is_available() else "cpu") if grid.device == "auto" else grid.device
        self.dtype = ("float32" if self.device == "cpu" else "bfloat16") if grid.dtype == "auto" else grid.dtype
        self.statuses: dict[str, str] = {}

    def run(self) -> Outcome:
        grid = self.grid
        self.watch.doing(f"loading {grid.model}")
        self.loaded = self._load()
        self._set_threads()
        self.benchmarks = {}
        for task in grid.tasks:
            self.watch.doing(f"loading {task}")
            self.benchmarks[task] = load_task(task, grid.limit)
            count = len(self.benchmarks[task].requests)
            if grid.limit is not None and count < grid.limit:
                self.watch.note(f"{task} has {count} samples, fewer than limit={grid.limit}; all of them are asked")
        self.study.begin(grid)
        self.provenance = provenance.collect(self.loaded, self.device, self.dtype, grid.attention, {"grid": grid.seed})
        cells = grid.cells(grid.tasks)
        self.fingerprints = {cell.id: self._fingerprint(cell) for cell in cells}
        waiting = [cell for cell in cells if not self._done(cell)]
        journals = {cell.id: self.study.journal(cell, self.fingerprints[cell.id]) for cell in waiting if cell.kind == "quality"}
        for note in self.study.notes:
            self.watch.note(note)
        units = sum(self._units(cell, journals.get(cell.id)) for cell in waiting)
        self.watch.begin(len(cells), len(cells) - len(waiting), units)
        for task, benchmark in self.benchmarks.items():
            self._quality(
                benchmark,
                [Run(cell, journals[cell.id]) for cell in waiting if cell.kind == "quality" and cell.task == task],
            )
        self._cost([cell for cell in waiting if cell.kind == "cost"])
        return Outcome(self.study.folder, self.statuses)

    def _load(self) -> models.Loaded:
        grid = self.grid
        if self.device == "cuda" and not torch.cuda.is_available():
            raise GridError("device is 'cuda', but torch sees no GPU here; use device=cpu")
        try:
            return models.load(
                grid.model,
                device=self.device,
                dtype=self.dtype,
                attention=grid.attention,
                weights="random" if grid.weights == "random" else "pretrained",
                seed=grid.seed,
                revision=grid.revision,
            )
        except ImportError as error:  # an attention kernel, a processor's library
            raise models.LoadError(f"model {grid.model} needs a package that is missing: {error}") from error

    def _set_threads(self) -> None:
        """A miniature gains nothing from a second thread, and on a busy machine threads that wait for each other cost 25x."""
        miniature = self.device == "cpu" and self.loaded.model.num_parameters() < MINIATURE
        threads = self.grid.threads or (1 if miniature else None)
        if threads is not None:
            torch.set_num_threads(threads)

    def _done(self, cell: Cell) -> bool:
        facts = self.study.result(cell, self.fingerprints[cell.id])
        if facts is None:
            return False
        self.statuses[cell.id] = facts["status"]
        return True

    def _units(self, cell: Cell, journal: Journal | None) -> int:
        if journal is None:
            return cost.calls(self.grid.cost)
        return len(self.benchmarks[cell.task].requests) - len(journal.rows)

    def _fingerprint(self, cell: Cell) -> str:
        """A hash over all that changes what the cell measures."""
        grid, variant = self.grid, cell.variant
        about = {
            "kind": cell.kind,
            "model": [self.loaded.revision, grid.weights],
            "running": [self.device, self.dtype, grid.attention, grid.batch],
            "code": [provenance.sources(), {name: provenance.versions().get(name) for name in provenance.DECIDING}],
            "method": [variant.source(), variant.settings(), cell.amount, cell.budget_kind],
            "task": self.benchmarks[cell.task].fingerprint,
            "seed": grid.seed,
        }
        if cell.kind == "cost":
            about["cost"] = [asdict(grid.cost), self.provenance["hardware"], self.provenance["threads"]]
        return hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()

    # ---- quality --------------------------------------------------------------------------------------------------

    def _quality(self, benchmark: Benchmark, runs: list[Run]) -> None:
        self.watch.running(len(runs))
        for group in _groups(benchmark.requests, self.grid.batch):
            live = [run for run in runs if run.status == "ok" and run.missing(group)]
            if live:
                self._ask(benchmark, group, live)
        for run in runs:
            self._finish(benchmark, run)

    def _ask(self, benchmark: Benchmark, group: Sequence[Request], live: list[Run]) -> None:
        """One group of samples through every cell that misses one of them; a group with an unreadable one is asked one by one."""
        try:
            prompt = prompts.read(self.loaded, benchmark, group)
            shared = quality.encoded(self.loaded, prompt, [run.cell.variant.pruner for run in live])
        except MediaError as error:
            if len(group) > 1:
                for request in group:
                    self._ask(benchmark, [request], [run for run in live if run.missing([request])])
                return
            for run in live:
                self._keep(run, [quality.unanswered(group[0], str(error))])
            return
        except Exception as error:
            for run in live:
                self._stop(run, error, benchmark)
            return
        for run in live:
            try:
                rows = quality.answer(self.loaded, run.cell, shared)
            except Exception as error:
                self._stop(run, error, benchmark)
            else:
                self._keep(run, rows)

    def _keep(self, run: Run, rows: list[Row]) -> None:
        new = [row for row in rows if row["sample_id"] not in run.journal.rows]
        run.journal.append(new)
        self.watch.advance(len(new))

    def _stop(self, run: Run, error: Exception, benchmark: Benchmark) -> None:
        """The cell ends here, the others go on."""
        run.status, run.reason = judged(error)
        self.watch.advance(len(benchmark.requests) - len(run.journal.rows))
        if run.status == "oom" and torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _finish(self, benchmark: Benchmark, run: Run) -> None:
        rows = sorted(run.journal.rows.values(), key=lambda row: row["doc_id"])
        metrics: list[Metric] = []
        broken = [row for row in rows if row["error"] is not None]
        if run.status == "ok":
            try:
                rows, metrics = scored(benchmark, rows)
            except Exception as error:
                run.status, run.reason = judged(error)
            else:
                if broken:
                    run.status = "failed"
                    run.reason = f"{len(broken)} of {len(rows)} samples could not be asked: {broken[0]['error']}"
        self._write(run.cell, run.status, run.reason, metrics, {"samples": rows})

    # ---- cost -----------------------------------------------------------------------------------------------------

    def _cost(self, cells: list[Cell]) -> None:
        if not cells:
            return
        benchmark = self.benchmarks[cells[0].task]
        samples: list[prompts.Prompt] = []
        for cell in cells:
            status: Status = "ok"
            reason, rows, metrics = "", list[Row](), list[Metric]()
            self.watch.running(1)
            try:
                samples = samples or cost.inputs(self.loaded, benchmark, self.grid.cost)
                rows, metrics = cost.measure(self.loaded, cell, samples, self.grid.cost)
            except Exception as error:
                status, reason = judged(error)
            self.watch.advance(cost.calls(self.grid.cost))
            self._write(cell, status, reason, metrics, {"pairs": rows})

    def _write(self, cell: Cell, status: Status, reason: str, metrics: list[Metric], tables: dict[str, list[Row]]) -> None:
        benchmark = self.benchmarks[cell.task]
        facts: dict[str, Any] = {
            "id": cell.id,
            "fingerprint": self.fingerprints[cell.id],
            "kind": cell.kind,
            "model": shown(cell.model),
            "method": cell.variant.label,
            "pruner": cell.variant.name,
            "pruner_source": cell.variant.source(),
            "settings": cell.variant.settings(),
            "control": cell.variant.name in CONTROLS,
            "budget": cell.amount,
            "budget_kind": cell.budget_kind,
            "task": shown(cell.task),
            "seed": cell.seed,
            "status": status,
            "reason": reason,
            "metric": benchmark.primary,
            "higher_is_better": benchmark.higher_is_better(benchmark.primary),
            "metrics": [asdict(metric) for metric in metrics],
            "provenance": self.provenance,
        }
        self.study.finish(cell, facts, tables)
        self.statuses[cell.id] = status
        self.watch.finished(cell.id, status, reason)


@dataclass
class Run:
    """A quality cell at work."""

    cell: Cell
    journal: Journal
    status: Status = "ok"
    reason: str = ""

    def missing(self, group: Sequence[Request]) -> bool:
        """Whether a sample of the group is still to be asked."""
        return any(request.sample_id not in self.journal.rows for request in group)


def judged(error: Exception) -> tuple[Status, str]:
    """Status and reason of a cell that raised: the message first, the traceback where it is a failure."""
    message = str(error).strip() or type(error).__name__
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in message:
        return "oom", message
    if isinstance(error, Unsupported):
        return "unsupported", message
    if isinstance(error, BudgetError):
        return "infeasible", message
    return "failed", f"{type(error).__name__}: {message}\n{''.join(traceback.format_exception(error))}"


def _groups(requests: Sequence[Request], size: int) -> list[list[Request]]:
    """Up to `size` samples in a row that are generated with the same settings; always the same groups."""
    groups: list[list[Request]] = []
    for request in requests:
        if groups and len(groups[-1]) < size and groups[-1][0].generation == request.generation:
            groups[-1].append(request)
        else:
            groups.append([request])
    return groups
