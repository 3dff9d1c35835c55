"""Active: a cell while it is worked on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from prunebench.benchmarks import Request
from prunebench.run.cell import Cell
from prunebench.run.fault import Fault, cell_status
from prunebench.run.store import Journal, Row
from prunebench.study.record import Status

PATIENCE = 10
"""Samples in a row on which a method may fail before its cell is given up."""

EXPECTED = ("infeasible", "unsupported")
"""What a sample may come to without the method having failed on it."""


@dataclass
class Standing:
    """How a cell fares: `failures` counts those in a row, `ended` is the fault that nothing can
    follow.
    """

    failures: int = 0
    ended: Fault | None = None

    @property
    def going(self) -> bool:
        """Whether there is a point in asking further samples."""
        return self.ended is None and self.failures < PATIENCE

    def answered(self) -> None:
        """A sample has a row, and none that the method is to blame for."""
        self.failures = 0

    def failed(self, fault: Fault) -> None:
        """Something went wrong with a sample."""
        if fault.ends:
            self.ended = fault
        self.failures = 0 if fault.status in EXPECTED else self.failures + 1


@dataclass
class Run:
    """A cell at work: how it fares, and the faults with their tracebacks, for its reason is the
    first of them.
    """

    cell: Cell
    standing: Standing = field(default_factory=Standing)
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
        return self.standing.going

    @property
    def unasked(self) -> int:
        """Samples that have no row yet."""
        return self.requests - len(self.journal.rows)

    def missing(self, group: Sequence[Request]) -> list[str]:
        """The samples of a group that are still to be asked."""
        rows = self.journal.rows
        return [request.sample_id for request in group if request.sample_id not in rows]

    def verdict(self, rows: Sequence[Row], count: int) -> tuple[Status, str]:
        """Status and reason of the cell, of `count` samples: it speaks for those it answered, and
        says so where that is not all.
        """
        ended = self.standing.ended
        if ended is not None:
            return ended.cell_status, ended.detail
        lacking = [row for row in rows if row["error"] is not None]
        if not lacking:
            return "ok", ""
        answered = len(rows) - len(lacking)
        share = f"speaks for {answered} of {count} samples; {len(lacking)} could not be answered"
        hard = [row for row in lacking if row["status"] in ("failed", "timeout", "oom")]
        if hard:
            first = hard[0]
            detail = self.details[0].detail if self.details else first["error"]
            reason = f"{share}: sample {first['sample_id']}: {detail}" if answered else detail
            return _common(hard), reason
        first = lacking[0]
        if answered:
            # that a sample is unreadable says of which sample, for it is the same in every cell
            sample = "" if first["status"] == "unreadable" else f"sample {first['sample_id']}: "
            return "ok", f"{share}: {sample}{first['error']}"
        return _common(lacking), first["error"]


def _common(rows: Sequence[Row]) -> Status:
    """The cell status that samples without an answer share, "failed" where they share none."""
    statuses = {cell_status(row["status"]) for row in rows}
    return statuses.pop() if len(statuses) == 1 else "failed"
