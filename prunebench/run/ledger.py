"""Ledger: the cells of one model while a sweep is at them: what decides their answers, what is done
of them already, and the one hand that writes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from prunebench.benchmarks import Benchmark, Request
from prunebench.budget import Budget
from prunebench.engine.checks import planned
from prunebench.run import cost, layers
from prunebench.run.active import Run
from prunebench.run.cell import Cell, shown
from prunebench.run.fault import Fault
from prunebench.run.fingerprint import fingerprint
from prunebench.run.grid import CONTROLS, Grid
from prunebench.run.progress import Watcher
from prunebench.run.quality import Bound
from prunebench.run.store import Row, Study
from prunebench.run.work import CellPart, TaskSource, Worker
from prunebench.study.cells import joined
from prunebench.study.record import BLIND, CellRecord, Metric, Status

Statuses = dict[str, str]
"""What has become of every cell, by its id."""


@dataclass
class Ledger:
    """What is known of a model's cells."""

    grid: Grid
    study: Study
    watch: Watcher
    worker: Worker
    provenance: Mapping[str, Any]
    fingerprints: dict[str, str] = field(default_factory=dict)
    digests: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Hashes of every method that was bound, by its cell."""
    statuses: Statuses = field(default_factory=dict)
    notes: int = 0
    """Notes of the study that were passed on already."""

    def cells(self) -> list[Cell]:
        """The model's cells on the tasks that are loaded."""
        tasks = [source.name for source in self.worker.benchmarks]
        model = self.worker.backend.setup.model
        return [cell for cell in self.grid.cells(tasks) if cell.model == model]

    def benchmark(self, cell: Cell) -> Benchmark:
        """The task of a cell, loaded."""
        return self.worker.benchmarks[self.source(cell)]

    def source(self, cell: Cell) -> TaskSource:
        """The task of a cell, as it was loaded."""
        return next(one for one in self.worker.benchmarks if one.name == cell.task)

    def begun(self, cell: Cell) -> Run:
        """Bind the cell's method to the model, and note what decides its answers; a method that
        fails fails alone.
        """
        # what becomes of samples is a matter of quality cells alone
        requests = self.benchmark(cell).requests if cell.kind == "quality" else ()
        run = Run(cell, [request.sample_id for request in requests])
        variant = cell.variant
        module = type(variant.pruner).__module__
        refusal = self.benchmark(cell).refusal if cell.kind == "quality" else ""
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

    def is_done(self, cell: Cell) -> bool:
        """Whether the study has the cell's result already; its status is noted then."""
        record = self.study.result(cell, self.fingerprints[cell.id])
        if record is None:
            return False
        self.statuses[cell.id] = record.status
        return True

    def open_journal(self, run: Run) -> None:
        """Open the journal of a cell's samples, with the rows that an earlier run has left."""
        samples = {}
        for request in self.benchmark(run.cell).requests:
            samples[request.sample_id] = request.doc_id
        run.open(self.study.journal(run.cell, self.fingerprints[run.cell.id], samples))

    def calls(self, run: Run) -> int:
        """How often a cell still calls `generate`."""
        # only quality cells have a journal
        return cost.calls(self.grid.cost) if run.opened is None else run.unasked

    def _fingerprint(self, cell: Cell, method: list[Any]) -> str:
        """What makes the cell this one; `method` are hashes of what decides its answers."""
        task = self.benchmark(cell).fingerprint
        backend = self.worker.backend
        return fingerprint(cell, self.grid, backend, task, method, self.provenance)

    def part(self, run: Run, group: Sequence[Request] = ()) -> CellPart:
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

    def write(
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
        benchmark, variant = self.benchmark(cell), cell.variant
        rows = tables.get("samples", [])
        overspent = self._overspent(cell, rows)
        # one that came to no numbers has none of its layers either
        answers = rows if status == "ok" else []
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
            reason=joined([reason, overspent]),
            samples=counts,
            reach="nearest" if overspent else None,
            port=self._port(cell) or None,
            metric=benchmark.primary,
            higher_is_better=benchmark.higher_is_better(benchmark.primary),
            entering=layers.entering(answers),
            encoder=layers.encoder(answers),
            metrics=tuple(metrics),
            provenance=dict(self.provenance),
        )
        # numbers that are none make a cell fail where it is written
        stored = self.study.finish(cell, record, tables, kept or {})
        self.statuses[cell.id] = stored.status
        self.watch.finished(cell.id, stored.status, stored.reason)

    def _port(self, cell: Cell) -> str:
        """What stands in for something that the model lacks; empty for a method as published."""
        if cell.id not in self.digests:  # it was refused
            return ""
        return self.worker.bound(self.part(Run(cell))).method.port

    def _overspent(self, cell: Cell, rows: Sequence[Row]) -> str:
        """What there is to say where a method could not spend its cell's budget, and ran at the
        nearest that it can; else empty.
        """
        budget = cell.budget
        answered = [row for row in rows if row["status"] == "ok"]
        if budget is None or not budget.nearest or not answered:
            return ""
        bound = self.worker.bound(self.part(Run(cell)))
        if bound.on_pixels:  # it has no plan, and refuses what it cannot reach
            return ""
        exact = replace(budget, nearest=False)
        counts = sorted({row["available"] for row in answered})
        # a method's own code, which may fail in any way
        step = partial(self._plan, bound, exact, counts)
        variant = cell.variant
        module = type(variant.pruner).__module__
        outcome = self.worker.attempt(step, self.grid.timeout, variant.label, module)
        if not isinstance(outcome, Fault):
            return ""
        if outcome.status != "infeasible":
            return f"does not say what it spends at {exact}: {outcome.reason}"
        shares = [row[f"tokens_{budget.kind}"] / row["available"] for row in answered]
        mean = sum(shares) / len(shares)
        return f"cannot spend {exact}: runs at the nearest that it can, a share of {mean:.3f}"

    def _plan(self, bound: Bound, budget: Budget, counts: Sequence[int]) -> None:
        """Plan for samples of so many visual tokens; raises BudgetError where one cannot be met."""
        for available in counts:
            planned(bound.method, budget, None, available, self.worker.backend.layers)

    def tell_notes(self) -> None:
        """What the study has set aside since the last time."""
        for note in self.study.notes[self.notes :]:
            self.watch.note(note)
        self.notes = len(self.study.notes)
