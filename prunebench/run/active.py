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

UNKNOWN, ANSWERED, FAILED = range(3)
"""What has become of a sample; one that came to something expected counts as answered."""


@dataclass
class Standing:
    """How a cell fares in one unit: `failures` counts those in a row, `ended` is the fault that
    nothing can follow.
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


class Course:
    """How a cell fares over the samples of its task, in their order, however they come in.

    Samples may be answered in any order, by several processes, and partly by an earlier run. Where
    a cell ends is decided by the task's order alone, so that it is always at the same sample.
    `ended` is the fault that nothing can follow.
    """

    def __init__(self, samples: Sequence[str] = ()) -> None:
        self._place = {sample: place for place, sample in enumerate(samples)}
        self._state = bytearray(len(samples))
        self._last = len(samples) - 1
        self._first_unknown = 0
        self.ended: Fault | None = None

    @property
    def going(self) -> bool:
        """Whether a sample that counts has not come in yet."""
        while self._first_unknown <= self._last and self._state[self._first_unknown]:
            self._first_unknown += 1
        return self._first_unknown <= self._last

    def counts(self, sample: str) -> bool:
        """Whether what becomes of a sample counts: it is not behind the end of the cell."""
        return self._place[sample] <= self._last

    def answered(self, sample: str) -> None:
        """A sample has a row, and none that the method is to blame for."""
        self._state[self._place[sample]] = ANSWERED

    def failed(self, sample: str, fault: Fault) -> None:
        """Something went wrong with a sample. The cell ends with it where the fault says so, or
        where it is one too many in a row.
        """
        place = self._place[sample]
        expected = fault.ends or fault.status in EXPECTED
        self._state[place] = ANSWERED if expected else FAILED
        if fault.ends:
            self._end(place, fault)
        elif not expected:
            # it may have come in between others, so that the row of failures goes on behind it
            first = behind = place - self._failures_before(place)
            while behind < len(self._state) and self._state[behind] == FAILED:
                behind += 1
            if behind - first >= PATIENCE:
                self._end(first + PATIENCE - 1, None)

    def refused(self, fault: Fault) -> None:
        """The cell cannot even begin."""
        self._end(-1, fault)

    def failures_before(self, sample: str) -> int:
        """On how many samples in a row just before this one the method failed, as far as they have
        come in.
        """
        return self._failures_before(self._place[sample])

    def _failures_before(self, place: int) -> int:
        count = 0
        # more need not be told apart: the cell has ended there
        while count < min(PATIENCE, place) and self._state[place - count - 1] == FAILED:
            count += 1
        return count

    def _end(self, place: int, fault: Fault | None) -> None:
        """The cell ends with the sample at `place`, unless it has ended before that."""
        if place < self._last or (place == self._last and fault is not None):
            self._last, self.ended = place, fault


@dataclass
class Run:
    """A cell at work: how it fares, and the faults with their tracebacks by sample, for its reason
    is the first of them.

    `samples_told` counts those that whoever watches knows to be over.
    """

    cell: Cell
    samples: Sequence[str] = ()
    faults: dict[str, Fault] = field(default_factory=dict)
    opened: Journal | None = None
    samples_told: int = 0

    def __post_init__(self) -> None:
        self.course = Course(self.samples)

    @property
    def journal(self) -> Journal:
        """Where its samples are kept."""
        assert self.opened is not None
        return self.opened

    @property
    def going(self) -> bool:
        """Whether there is a point in asking further samples."""
        return self.course.going

    @property
    def unasked(self) -> int:
        """Samples that have no row yet."""
        return len(self.samples) - len(self.journal.rows)

    def open(self, journal: Journal) -> None:
        """Go on from the rows that are there."""
        self.opened = journal
        for sample in journal.rows:
            self.course.answered(sample)
        self.samples_told = len(journal.rows)

    def missing(self, group: Sequence[Request]) -> list[str]:
        """The samples of a group that are still to be asked."""
        return [request.sample_id for request in group if self._is_missing(request.sample_id)]

    def _is_missing(self, sample: str) -> bool:
        return sample not in self.journal.rows and self.course.counts(sample)

    def rows(self) -> list[Row]:
        """The rows that count, in the order of the task: samples come in as they are had, and one
        behind the cell's end may have been answered before that was known.
        """
        rows = sorted(self.journal.rows.values(), key=lambda row: row["doc_id"])
        return [row for row in rows if self.course.counts(row["sample_id"])]

    def verdict(self, rows: Sequence[Row], count: int) -> tuple[Status, str]:
        """Status and reason of the cell, of `count` samples: it speaks for those it answered, and
        says so where that is not all.
        """
        ended = self.course.ended
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
            fault = self.faults.get(first["sample_id"])
            detail = first["error"] if fault is None else fault.detail
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
