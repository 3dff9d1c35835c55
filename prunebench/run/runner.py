"""Runner: works through a grid, sample by sample, so that one encoding serves every method and
budget.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from prunebench import models
from prunebench.benchmarks import Benchmark, Request, load_task
from prunebench.border import images
from prunebench.border.guard import Guard, RandomState
from prunebench.border.interruption import interrupts
from prunebench.border.text import one_line
from prunebench.engine.clip import load_clip
from prunebench.engine.ready import Ready, make_ready
from prunebench.identity import identity
from prunebench.run import cost, provenance, quality
from prunebench.run import samples as prompts
from prunebench.run.active import Run
from prunebench.run.cell import Cell, shown
from prunebench.run.fault import Fault, judged
from prunebench.run.grid import CONTROLS, Grid, GridError
from prunebench.run.limits import Overdue, limited
from prunebench.run.progress import Silent, Watcher
from prunebench.run.store import Row, StoreError, Study, Vanished, open_study
from prunebench.run.summary import scored
from prunebench.study.record import (
    BASELINE,
    CellRecord,
    Metric,
    SampleStatus,
    Status,
)

T = TypeVar("T")

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

    Raises StoreError, LoadError, Unsupported or TaskError before any work where the folder, the
    model or a task cannot be had; whatever goes wrong in a cell is that cell's status.
    """
    watch = watcher if watcher is not None else Silent()
    with open_study(grid.folder()) as study:
        return _Sweep(grid, study, watch).run()


class _Sweep:
    def __init__(self, grid: Grid, study: Study, watch: Watcher) -> None:
        self.grid, self.study, self.watch = grid, study, watch
        self.device = (
            ("cuda" if torch.cuda.is_available() else "cpu")
            if grid.device == "auto"
            else grid.device
        )
        self.dtype = (
            ("float32" if self.device == "cpu" else "bfloat16")
            if grid.dtype == "auto"
            else grid.dtype
        )
        self.statuses: dict[str, str] = {}
        self.fingerprints: dict[str, str] = {}
        self.notes = 0

    def run(self) -> Outcome:
        grid = self.grid
        self.watch.doing(f"loading {grid.model}")
        self.loaded = self._load()
        self._set_threads()
        self.benchmarks = {}
        for task in grid.tasks:
            self.watch.doing(f"loading {task}")
            most = images.MAX_PIXELS if grid.max_image_pixels is None else grid.max_image_pixels
            self.benchmarks[task] = load_task(task, grid.limit, max_image_pixels=most)
            count = len(self.benchmarks[task].requests)
            if grid.limit is not None and count < grid.limit:
                self.watch.note(
                    f"{task} has {count} samples, fewer than limit={grid.limit}; all of them are asked"
                )
        self.study.begin(grid)
        self.provenance = provenance.collect(
            self.loaded, self.device, self.dtype, grid.attention, {"grid": grid.seed}
        )
        self.guard = Guard(self.loaded.model)
        self.plain = make_ready(self.loaded.family, self.loaded.model, BASELINE)
        cells = grid.cells(grid.tasks)
        self.runs = {cell.id: self._bind(cell) for cell in cells}
        waiting = [cell for cell in cells if not self._done(cell)]
        for cell in waiting:
            if cell.kind == "quality":
                samples = {
                    request.sample_id: request.doc_id
                    for request in self.benchmarks[cell.task].requests
                }
                self.runs[cell.id].opened = self.study.journal(
                    cell, self.fingerprints[cell.id], samples
                )
        self._tell_notes()
        units = sum(self._units(self.runs[cell.id]) for cell in waiting)
        self.watch.begin(len(cells), len(cells) - len(waiting), units)
        for task, benchmark in self.benchmarks.items():
            self._quality(
                benchmark,
                [
                    self.runs[cell.id]
                    for cell in waiting
                    if cell.kind == "quality" and cell.task == task
                ],
            )
        self._cost([cell for cell in waiting if cell.kind == "cost"])
        self._tell_notes()
        return Outcome(self.study.folder, self.statuses)

    def _tell_notes(self) -> None:
        """What the study has set aside since the last time."""
        for note in self.study.notes[self.notes :]:
            self.watch.note(note)
        self.notes = len(self.study.notes)

    def _bind(self, cell: Cell) -> Run:
        """Bind the cell's method to the model, and note what decides its answers; a method that
        fails fails alone.
        """
        run = Run(cell, requests=len(self.benchmarks[cell.task].requests))
        bound = self._attempt(partial(self._ready, cell), run)
        if isinstance(bound, Fault):
            run.fault = replace(bound, ends=True)
            decides: list[Any] = [cell.variant.source(), cell.variant.settings(), bound.reason]
        else:
            run.method, decides = bound
        self.fingerprints[cell.id] = self._fingerprint(cell, decides)
        return run

    def _ready(self, cell: Cell) -> tuple[Ready, list[Any]]:
        """The method, ready, with hashes of all that decides its answers."""
        method = make_ready(self.loaded.family, self.loaded.model, cell.variant.pruner)
        decides: list[Any] = [identity(method.pruner), cell.variant.positions]
        if method.clip is not None:
            decides.append(
                load_clip(method.clip, self.loaded.model.device, self.loaded.model.dtype).digest
            )
        return method, decides

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
                trust_remote_code=grid.trust_remote_code,
            )
        except ImportError as error:  # an attention kernel, a processor's library
            raise models.LoadError(
                f"model {grid.model} needs a package that is missing: {error}"
            ) from error

    def _set_threads(self) -> None:
        """A miniature gains nothing from a second thread, and on a busy machine threads that wait
        for each other cost 25x.
        """
        miniature = self.device == "cpu" and self.loaded.model.num_parameters() < MINIATURE
        threads = self.grid.threads or (1 if miniature else None)
        if threads is not None:
            torch.set_num_threads(threads)

    def _done(self, cell: Cell) -> bool:
        record = self.study.result(cell, self.fingerprints[cell.id])
        if record is None:
            return False
        self.statuses[cell.id] = record.status
        return True

    def _units(self, run: Run) -> int:
        return cost.calls(self.grid.cost) if run.opened is None else run.unasked

    def _fingerprint(self, cell: Cell, method: list[Any]) -> str:
        """A hash over all that changes what the cell measures; `method` are the hashes of what
        decides its answers.
        """
        grid = self.grid
        about = {
            "kind": cell.kind,
            "model": [self.loaded.revision, grid.weights],
            "running": [
                self.device,
                self.dtype,
                grid.attention,
                grid.batch,
                grid.trust_remote_code,
            ],
            "code": [
                provenance.sources(),
                {name: provenance.versions().get(name) for name in provenance.DECIDING},
            ],
            "method": [*method, cell.amount, cell.budget_kind],
            "task": self.benchmarks[cell.task].fingerprint,
            "seed": grid.seed,
        }
        if cell.kind == "cost":
            about["cost"] = [
                asdict(grid.cost),
                self.provenance["hardware"],
                self.provenance["threads"],
            ]
        return hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()

    # ---- quality ---------------------------------------------------------------------------------

    def _quality(self, benchmark: Benchmark, runs: list[Run]) -> None:
        self.watch.running(len(runs))
        for group in _groups(benchmark.requests, self.grid.batch):
            live = [run for run in runs if run.going and run.missing(group)]
            if live:
                self._ask(benchmark, group, live)
        for run in runs:
            self._finish(benchmark, run)

    def _ask(self, benchmark: Benchmark, group: Sequence[Request], live: list[Run]) -> None:
        """One group of samples through every cell that misses one of them.

        Where something goes wrong with a group of several, its samples are asked one by one: the
        others are not to blame.
        """
        prompt = self._attempt(lambda: prompts.read(self.loaded, benchmark, group))
        if isinstance(prompt, Fault):
            again = live
            if len(group) == 1:
                self._unreadable(benchmark, group[0], live, prompt)
        else:
            again = self._answers(prompt, live)
        if len(group) > 1:
            for request in group:
                waiting = [run for run in again if run.going and run.missing([request])]
                if waiting:
                    self._ask(benchmark, [request], waiting)

    def _answers(self, prompt: prompts.Samples, live: list[Run]) -> list[Run]:
        """Ask a prompt in every cell; of one sample a fault is noted, the cells in which a group
        failed are returned.
        """
        again = []
        for run, shared in self._encodings(prompt, live):
            rows = (
                shared
                if isinstance(shared, Fault)
                else self._attempt(partial(self._answer, run, shared), run)
            )
            if not isinstance(rows, Fault):
                self._keep(run, rows)
            elif len(prompt.requests) == 1 or rows.ends:
                self._blame(run, prompt.requests[0], rows)
            else:
                again.append(run)
        return again

    def _answer(self, run: Run, shared: quality.Encoded) -> list[Row]:
        assert run.method is not None
        return quality.answer(self.loaded, run.cell, run.method, self.plain, shared)

    def _encodings(
        self, prompt: prompts.Samples, live: list[Run]
    ) -> Iterator[tuple[Run, quality.Encoded | Fault]]:
        """The prompt's encoding for every cell: one for all, or one each where what a method reads
        there goes wrong.
        """
        methods = {run.cell.id: run.method for run in live if run.method is not None}
        shared = self._attempt(lambda: quality.encoded(self.loaded, prompt, list(methods.values())))
        if not isinstance(shared, Fault):
            yield from ((run, shared) for run in live)
            return
        bare = self._attempt(lambda: quality.encoded(self.loaded, prompt, []))
        for run in live:
            if isinstance(bare, Fault):  # with nobody looking it goes wrong as well
                yield run, bare
            else:
                yield (
                    run,
                    self._attempt(
                        partial(quality.encoded, self.loaded, prompt, [methods[run.cell.id]]), run
                    ),
                )

    def _attempt(self, work: Callable[[], T], run: Run | None = None) -> T | Fault:
        """What the work gives, or what went wrong with it; no method's doing reaches another's."""
        random = RandomState()
        try:
            with limited(self.grid.timeout):
                outcome: T | Fault = work()
        except Overdue as error:
            outcome = Fault("timeout", str(error), str(error))
        except BaseException as error:  # a method may raise anything, SystemExit included
            if interrupts(error):
                raise
            outcome = judged(error)
            if outcome.status == "oom" and torch.cuda.is_available():
                torch.cuda.empty_cache()
        random.restore()
        label = "" if run is None else run.cell.variant.label
        changes = self.guard.changes(
            "" if run is None else type(run.cell.variant.pruner).__module__
        )
        if changes:
            self.guard.restore(lambda: self._load().model)
            culprit = label or "something"
            reason = (
                f"{culprit} changes {one_line(', '.join(changes), 200)}; a method leaves no trace"
            )
            return Fault("failed", reason, reason, ends=True)
        return outcome

    def _keep(self, run: Run, rows: list[Row]) -> None:
        new = [row for row in rows if row["sample_id"] not in run.journal.rows]
        run.failures = 0
        try:
            run.journal.append(new)
        except Vanished:
            raise
        except StoreError as error:  # a number that is none
            run.fault = replace(judged(error), ends=True)
        self.watch.advance(len(new))

    def _unreadable(
        self, benchmark: Benchmark, request: Request, live: list[Run], fault: Fault
    ) -> None:
        """A sample that cannot be made an input for any method."""
        reason = fault.reason
        if fault.status == "failed":
            status: SampleStatus = "unreadable"
            if not fault.media:
                reason = f"sample {request.sample_id} of {benchmark.name} cannot be processed: {fault.reason}"
        else:
            status = fault.status
        for run in live:
            self._keep(run, [quality.unanswered(request, status, one_line(reason))])

    def _blame(self, run: Run, request: Request, fault: Fault) -> None:
        """A sample on which the method, or the model under it, failed; a cell that fails again and
        again is given up.
        """
        failures = run.failures + 1
        if fault.ends:
            run.fault = fault
        else:
            self._keep(run, [quality.unanswered(request, fault.status, one_line(fault.reason))])
        if fault.status not in ("infeasible", "unsupported"):
            run.details.append(fault)
            run.failures = failures
        if not run.going:
            self.watch.advance(run.unasked)

    def _finish(self, benchmark: Benchmark, run: Run) -> None:
        rows = sorted(run.journal.rows.values(), key=lambda row: row["doc_id"])
        metrics: list[Metric] = []
        status, reason = run.verdict(rows, len(benchmark.requests))
        if status == "ok" and rows:
            result = self._attempt(partial(scored, benchmark, rows))
            if isinstance(result, Fault):
                status, reason = "failed", result.detail
            else:
                rows, metrics = result
        self._write(run.cell, status, reason, metrics, {"samples": rows})

    # ---- cost ------------------------------------------------------------------------------------

    def _cost(self, cells: list[Cell]) -> None:
        if not cells:
            return
        benchmark = self.benchmarks[cells[0].task]
        samples: list[prompts.Samples] = []
        for cell in cells:
            run = self.runs[cell.id]
            outcome: tuple[list[Row], list[Metric]] | Fault = run.fault or ([], [])
            self.watch.running(1)
            if run.fault is None:
                try:
                    samples = samples or cost.inputs(self.loaded, benchmark, self.grid.cost)
                except Exception as error:
                    outcome = judged(error)
                else:
                    outcome = self._attempt(partial(self._measure, run, samples), run)
            self.watch.advance(cost.calls(self.grid.cost))
            if isinstance(outcome, Fault):
                self._write(cell, outcome.cell_status, outcome.detail, [], {"pairs": []})
            else:
                self._write(cell, "ok", "", outcome[1], {"pairs": outcome[0]})

    def _measure(self, run: Run, samples: list[prompts.Samples]) -> tuple[list[Row], list[Metric]]:
        assert run.method is not None
        return cost.measure(self.loaded, run.cell, run.method, samples, self.grid.cost)

    def _write(
        self,
        cell: Cell,
        status: Status,
        reason: str,
        metrics: list[Metric],
        tables: dict[str, list[Row]],
    ) -> None:
        benchmark = self.benchmarks[cell.task]
        record = CellRecord(
            id=cell.id,
            fingerprint=self.fingerprints[cell.id],
            kind=cell.kind,
            model=shown(cell.model),
            method=cell.variant.label,
            pruner=cell.variant.name,
            pruner_source=cell.variant.source(),
            settings=cell.variant.settings(),
            control=cell.variant.name in CONTROLS,
            budget=cell.amount,
            budget_kind=cell.budget_kind,
            task=shown(cell.task),
            seed=cell.seed,
            status=status,
            reason=reason,
            samples=self._counts(benchmark, tables),
            metric=benchmark.primary,
            higher_is_better=benchmark.higher_is_better(benchmark.primary),
            metrics=tuple(metrics),
            provenance=self.provenance,
        )
        # numbers that are none make a cell fail where it is written
        written = self.study.finish(cell, record, tables)
        self.statuses[cell.id] = written.status
        self.watch.finished(cell.id, written.status, written.reason)

    def _counts(self, benchmark: Benchmark, tables: dict[str, list[Row]]) -> dict[str, int] | None:
        """For how many samples a quality cell speaks, of how many it was asked for."""
        if "samples" not in tables:
            return None
        answered = sum(row["error"] is None for row in tables["samples"])
        return {"asked": len(benchmark.requests), "answered": answered}


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
