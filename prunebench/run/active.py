"""Active: a cell while it is worked on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from prunebench.benchmarks import Request
from prunebench.engine.ready import Ready
from prunebench.run.cell import Cell
from prunebench.run.fault import Fault, cell_status
from prunebench.run.store import Journal, Row
from prunebench.study.record import Status

PATIENCE = 10
"""Samples in a row on which a method may fail before its cell is given up."""


@dataclass
class Run:
    """A cell at work: its method, ready, or the `fault` that ended it; `failures` counts those in a
    row.
    """

    cell: Cell
    method: Ready | None = None
    fault: Fault | None = None
    failures: int = 0
    details: list[Fault] = field(default_factory=list)
    requests: int = 0
    opened: Journal | None = None

    @property
    def journal(self) -> Journal:
        """Where its samples are kept."""
        assert self.opened is not None
        return self.opened

    @property
    def going(self) -> bool:
        """Whether there is a point in asking further samples."""
        return self.fault is None and self.failures < PATIENCE

    @property
    def unasked(self) -> int:
        """Samples that have no row yet."""
        return self.requests - len(self.journal.rows)

    def missing(self, group: Sequence[Request]) -> bool:
        """Whether a sample of the group is still to be asked."""
        return any(request.sample_id not in self.journal.rows for request in group)

    def verdict(self, rows: Sequence[Row], asked: int) -> tuple[Status, str]:
        """Status and reason of the cell: it speaks for the samples it answered, and says so where
        that is not all.
        """
        if self.fault is not None:
            return self.fault.cell_status, self.fault.detail
        lacking = [row for row in rows if row["error"] is not None]
        answered = len(rows) - len(lacking)
        if not lacking:
            return "ok", ""
        hard = [row for row in lacking if row["status"] in ("failed", "timeout", "oom")]
        first = (hard or lacking)[0]
        share = f"speaks for {answered} of {asked} samples; {len(lacking)} could not be answered"
        if hard:
            detail = self.details[0].detail if self.details else first["error"]
            reason = f"{share}: sample {first['sample_id']}: {detail}" if answered else detail
            return _common(hard), reason
        if answered:
            # that a sample is unreadable says of which sample, for it is the same in every cell
            sample = "" if first["status"] == "unreadable" else f"sample {first['sample_id']}: "
            return "ok", f"{share}: {sample}{first['error']}"
        return _common(lacking), first["error"]


def _common(rows: Sequence[Row]) -> Status:
    """The cell status that samples without an answer have in common, "failed" where they have none."""
    statuses = {cell_status(row["status"]) for row in rows}
    return statuses.pop() if len(statuses) == 1 else "failed"
