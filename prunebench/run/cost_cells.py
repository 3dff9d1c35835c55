"""Cost cells: measured one by one, and written."""

from __future__ import annotations

from collections.abc import Iterator

from prunebench.run import cost
from prunebench.run.active import Run
from prunebench.run.ledger import Ledger
from prunebench.run.local import Executor
from prunebench.run.work import Result, Unit


class CostCells:
    """The cost cells of a model."""

    def __init__(self, ledger: Ledger, executor: Executor) -> None:
        self.ledger, self.executor = ledger, executor
        self.grid, self.watch, self.worker = ledger.grid, ledger.watch, ledger.worker

    def measure(self, runs: list[Run]) -> None:
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
                task=self.ledger.source(run.cell),
                cells=(self.ledger.part(run),),
                timeout=self.grid.timeout,
                cost=self.grid.cost,
            )

    def _priced(self, run: Run, result: Result) -> None:
        """Write a cost cell."""
        self.watch.advance(cost.calls(self.grid.cost))
        fault, rows = result.fault, list(result.rows)
        if fault is not None:
            self.ledger.write(run.cell, fault.cell_status, fault.detail, [], {"pairs": []}, None)
            return
        self.ledger.write(run.cell, "ok", "", list(result.metrics), {"pairs": rows}, None)
