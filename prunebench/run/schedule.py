"""Schedule: which worker gets which piece of the work next, and what becomes of the pieces of one
that is lost.

It is told what happens and says what to do, and knows neither processes nor clocks: the same code
hands out a sweep's units and is simulated for machines that are not there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from math import ceil

from prunebench.run.fault import Fault
from prunebench.run.work import CellPart, Result, Unit

DEPTH = 2
"""Pieces that a worker has at a time, so that it need not wait for the next one."""

MOST_CELLS = 32
LEAST_CELLS = 4
"""Cells in a piece: each piece encodes its samples anew, which many cells pay for together, and
the last pieces are small, so that all workers end at about the same time.
"""

SHARE = 4
"""Into how many pieces a worker's share of what is left is cut at least."""

TRIES = 4
"""How often a piece is given out before its samples count as lost: once, and three times again."""

SUSPECT = 2
"""Losses after which a piece is taken apart, to find the sample and the cell that it was."""


@dataclass(eq=False)
class Piece:
    """Work for one worker: a unit, or some of its cells or samples.

    `losses` counts the workers that were lost over it. `readable` says that a result has shown its
    samples to be harmless by themselves. One that is `only_read` has no cells; where its samples
    are read and encoded without harm, the unit `behind` it is asked cell by cell.
    """

    unit: Unit
    losses: int = 0
    readable: bool = False
    behind: Unit | None = None
    came: bool = False
    over: dict[str, set[str]] = field(default_factory=dict)
    """Samples that need not be asked again, by cell."""

    def note(self, result: Result) -> None:
        """A result has come; it is kept elsewhere."""
        self.came = self.readable = True
        part = next(part for part in self.unit.cells if part.id == result.cell)
        over = self.over.setdefault(result.cell, set())
        if self.unit.cost is not None or (result.fault is not None and result.fault.ends):
            over.update(part.missing, [""])
        elif result.fault is not None:
            over.add(result.sample)
        else:
            over.update(row["sample_id"] for row in result.rows)

    def rest(self) -> Unit:
        """What has not come of the unit."""
        parts: list[CellPart] = []
        for part in self.unit.cells:
            over = self.over.get(part.id, set())
            missing = tuple(sample for sample in part.missing if sample not in over)
            # a cell of cost misses no samples: it is there, or it is not
            if missing or (self.unit.cost is not None and not over):
                parts.append(replace(part, missing=missing))
        return replace(self.unit, cells=tuple(parts))


@dataclass(eq=False)
class Place:
    """A worker: the machine that it is on, and the pieces that it has, the one at work first."""

    name: str
    machine: str
    pieces: list[Piece] = field(default_factory=list)


class Schedule:
    """Hands out units piece by piece.

    `left` says about how many answers the units will ask for that were not taken from them yet.
    """

    def __init__(self, units: Iterable[Unit], left: Callable[[], int] = lambda: 0) -> None:
        self._units = iter(units)
        self._left = left
        self._exhausted = False
        self._unit: Unit | None = None  # taken from the units, and not given out whole
        self._again: deque[Piece] = deque()
        self._places: dict[str, Place] = {}

    # ---- what happens ----------------------------------------------------------------------------

    def joins(self, worker: str, machine: str) -> None:
        """A worker is ready."""
        self._places[worker] = Place(worker, machine)

    def came(self, worker: str, result: Result) -> None:
        """The worker had a result of the piece that it is at."""
        self._places[worker].pieces[0].note(result)

    def done(self, worker: str) -> None:
        """The worker is through with the piece that it was at."""
        piece = self._places[worker].pieces.pop(0)
        if piece.behind is not None:
            pieces = self._by_cell(piece.behind, min(piece.losses, SUSPECT))
            self._again.extend(pieces)

    def leaves(self, worker: str) -> None:
        """The worker is gone, and nothing that it was at is to blame: all is given out again."""
        for piece in self._places.pop(worker).pieces:
            self._return(piece, piece.losses)

    def lost(self, worker: str, fault: Fault) -> list[Result]:
        """The worker was lost over the piece that it was at. What it had is given out again; gives
        what is given up, as results with the fault.
        """
        place = self._places.pop(worker)
        if not place.pieces:
            return []
        piece, *waiting = place.pieces
        for other in waiting:  # it had not been begun, so it is not to blame
            self._return(other, other.losses)
        rest = piece.rest()
        if piece.behind is None and not rest.cells:
            return []
        # whatever came of it came without harm: it is another cell or sample that is at fault
        losses = 1 if piece.came else piece.losses + 1
        if losses >= TRIES and self._is_one(piece, rest):
            return self._given_up(piece.behind or rest, fault)
        if piece.behind is not None:
            self._again.extend(self._unread(piece.behind, losses))
        elif losses < SUSPECT or self._is_one(piece, rest):
            self._again.append(Piece(rest, losses, piece.readable))
        elif not piece.readable and rest.cost is None:
            self._again.append(_probe(rest, losses))
        elif len(rest.cells) > 1:
            self._again.extend(self._by_cell(rest, losses))
        else:
            self._again.extend(self._by_sample(rest, losses))
        return []

    # ---- what to do ------------------------------------------------------------------------------

    @property
    def over(self) -> bool:
        """Whether all work is done."""
        return not any(place.pieces for place in self._places.values()) and not self._has_more()

    def working(self, worker: str) -> Piece | None:
        """The piece that a worker is at."""
        pieces = self._places[worker].pieces
        return pieces[0] if pieces else None

    def handouts(self, quiet: bool = True) -> Iterator[tuple[str, Piece]]:
        """Pieces to be begun now, each with the worker that gets it.

        `quiet` says that no worker is starting up anywhere: costs are measured on a machine where
        nothing else goes on.
        """
        # no unit is taken before there is room for it: what it asks depends on what has come
        while self._has_room() and self._has_more():
            alone = self._is_cost()
            place = self._quiet_place() if alone else self._free_place()
            if place is None or (alone and not quiet):
                return
            piece = self._next_piece()
            place.pieces.append(piece)
            yield place.name, piece

    # ---- who gets the next piece -----------------------------------------------------------------

    def _has_room(self) -> bool:
        return any(len(place.pieces) < DEPTH for place in self._places.values())

    def _free_place(self) -> Place | None:
        """The worker that has least to do, if it may have more; none where costs are measured."""
        measuring = {place.machine for place in self._places.values() if _measures(place)}
        places = [place for place in self._places.values() if place.machine not in measuring]
        if not places:
            return None
        place = min(places, key=lambda place: len(place.pieces))
        return place if len(place.pieces) < self._depth() else None

    def _quiet_place(self) -> Place | None:
        """A worker on a machine where nobody works."""
        busy = {place.machine for place in self._places.values() if place.pieces}
        quiet = [place for place in self._places.values() if place.machine not in busy]
        return quiet[0] if quiet else None

    def _depth(self) -> int:
        """Towards the end a piece in stock is one that another worker waits for."""
        plenty = self._remaining() > len(self._places) * DEPTH * LEAST_CELLS
        return DEPTH if plenty else 1

    # ---- what the next piece is ------------------------------------------------------------------

    def _has_more(self) -> bool:
        if self._again or self._unit is not None:
            return True
        if not self._exhausted:
            self._unit = next(self._units, None)
            self._exhausted = self._unit is None
        return self._unit is not None

    def _is_cost(self) -> bool:
        """Whether the next piece measures costs."""
        unit = self._again[0].unit if self._again else self._unit
        return unit is not None and unit.cost is not None

    def _remaining(self) -> int:
        """About how many answers were not given out."""
        here = 0 if self._unit is None else len(self._unit.cells) * len(self._unit.samples)
        return self._left() + here

    def _next_piece(self) -> Piece:
        """What was lost first; else as many cells as go together from the unit at hand."""
        if self._again:
            return self._again.popleft()
        unit = self._unit
        assert unit is not None
        count = self._cells_in_a_piece(unit)
        rest = unit.cells[count:]
        self._unit = replace(unit, cells=rest) if rest else None
        return Piece(replace(unit, cells=unit.cells[:count]))

    def _cells_in_a_piece(self, unit: Unit) -> int:
        """A share of what is left, between bounds; of a unit all pieces are about equal."""
        cells = len(unit.cells)
        if cells <= LEAST_CELLS:
            return cells
        workers = max(1, len(self._places))
        share = self._remaining() // (SHARE * workers * max(1, len(unit.samples)))
        most = min(MOST_CELLS, max(LEAST_CELLS, share))
        return ceil(cells / ceil(cells / most))

    # ---- what was lost ---------------------------------------------------------------------------

    def _return(self, piece: Piece, losses: int) -> None:
        """Give the rest of a piece out again."""
        rest = piece.rest()
        if rest.cells or piece.behind is not None:
            self._again.append(Piece(rest, losses, piece.readable, piece.behind))

    @staticmethod
    def _is_one(piece: Piece, rest: Unit) -> bool:
        """Whether a piece cannot be taken apart further."""
        if rest.cost is not None:
            return True
        if piece.behind is not None:
            return len(piece.behind.samples) == 1
        return len(rest.cells) == 1 and len(rest.samples) == 1

    @staticmethod
    def _by_cell(unit: Unit, losses: int) -> Iterator[Piece]:
        """The same samples, cell by cell."""
        for part in unit.cells:
            yield Piece(replace(unit, cells=(part,)), losses, readable=True)

    @staticmethod
    def _by_sample(unit: Unit, losses: int) -> Iterator[Piece]:
        """The samples of a cell one by one; those that it has are left out."""
        for one in _single(unit):
            # each has a second chance of its own: it may have been any of the others
            yield Piece(one, min(losses, SUSPECT), readable=True)

    @staticmethod
    def _unread(unit: Unit, losses: int) -> Iterator[Piece]:
        """Samples over whose mere reading a worker was lost, one by one."""
        if len(unit.samples) == 1:
            yield _probe(unit, losses)
            return
        for one in _single(unit):
            yield _probe(one, min(losses, SUSPECT))

    @staticmethod
    def _given_up(unit: Unit, fault: Fault) -> list[Result]:
        """Every sample of every cell, with the fault."""
        reason = f"{fault.reason} ({TRIES} times)"
        fault = replace(fault, reason=reason, detail=reason)
        results: list[Result] = []
        for part in unit.cells:
            if unit.cost is not None:
                results.append(Result(part.id, fault=fault))
            results += [Result(part.id, fault=fault, sample=sample) for sample in part.missing]
        return results


def _probe(unit: Unit, losses: int) -> Piece:
    """The samples without a cell: they are read and encoded, and nothing else."""
    return Piece(replace(unit, cells=()), losses, behind=unit)


def _single(unit: Unit) -> Iterator[Unit]:
    """The unit's samples one by one, each with the cells that miss it."""
    for sample in unit.samples:
        missing = [part for part in unit.cells if sample in part.missing]
        parts = tuple(replace(part, missing=(sample,)) for part in missing)
        if parts:
            yield replace(unit, samples=(sample,), cells=parts)


def _measures(place: Place) -> bool:
    """Whether a worker measures costs."""
    return any(piece.unit.cost is not None for piece in place.pieces)
