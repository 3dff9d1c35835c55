"""Schedule: who gets what, what is given out again, whose fault a lost worker is; and where a cell
ends, whatever the order in which its samples come.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from simulated_cluster import Cluster, Grid, Seconds

from prunebench.run.active import PATIENCE, Course
from prunebench.run.backend import ModelSetup
from prunebench.run.fault import Fault
from prunebench.run.question import Cost
from prunebench.run.schedule import DEPTH, LEAST_CELLS, MOST_CELLS, TRIES, Piece, Schedule
from prunebench.run.work import CellPart, Result, TaskSource, Unit

SETUP = ModelSetup("tiny-qwen2.5-vl")
TASK = TaskSource("scenes", None, None)
LOST = Fault("failed", "gone", "gone")
FATE = f"gone ({TRIES} times)"
BROKEN = Fault("failed", "broken", "broken")


def unit(cells: int, *samples: str, cost: Cost | None = None) -> Unit:
    missing = () if cost is not None else samples
    parts = tuple(CellPart(f"cell{n}", {}, None, 0, missing=missing) for n in range(cells))
    return Unit(SETUP, TASK, parts, () if cost is not None else samples, cost=cost)


def rows(piece: Piece) -> Iterator[Result]:
    """What a worker that is well makes of a piece."""
    for part in piece.unit.cells:
        if piece.unit.cost is not None:
            yield Result(part.id, ({"pair": 0},))
        else:
            yield Result(part.id, tuple({"sample_id": sample} for sample in part.missing))


class Crew:
    """Workers that answer one result a turn, in an order drawn from a seed; `kills` says on which
    cell and sample a worker dies, with None for a sample that cannot even be read.
    """

    def __init__(self, schedule: Schedule, workers: int, kills: Any = lambda cell, sample: False):
        self.schedule, self.kills = schedule, kills
        self.names = (f"w{n}" for n in itertools.count())
        self.queues: dict[str, list[tuple[Piece, list[Result]]]] = {}
        self.results: list[Result] = []
        self.deaths = 0
        for _ in range(workers):
            self.hire()

    def hire(self) -> None:
        name = next(self.names)
        self.queues[name] = []
        self.schedule.joins(name, machine="m")

    def run(self, seed: int = 0, sudden_deaths: float = 0.0) -> list[Result]:
        chance = random.Random(seed)
        while True:
            for name, piece in self.schedule.handouts():
                self.queues[name].append((piece, list(rows(piece))))
                assert len(self.queues[name]) <= DEPTH
            if self.schedule.over:
                return self.results
            busy = [name for name, queue in self.queues.items() if queue]
            name = chance.choice(busy)
            if chance.random() < sudden_deaths or self.dies(name):
                self.bury(name)
            else:
                self.step(name)

    def dies(self, name: str) -> bool:
        piece, results = self.queues[name][0]
        if not piece.came and any(self.kills(None, sample) for sample in piece.unit.samples):
            return True
        if not results:
            return False
        samples = [row["sample_id"] for row in results[0].rows if "sample_id" in row]
        return any(self.kills(results[0].cell, sample) for sample in samples or [""])

    def bury(self, name: str) -> None:
        self.deaths += 1
        del self.queues[name]
        self.results += self.schedule.lost(name, LOST)
        self.hire()

    def step(self, name: str) -> None:
        _, results = self.queues[name][0]
        if results:
            self.schedule.came(name, results[0])
            self.results.append(results.pop(0))
        else:
            self.schedule.done(name)
            self.queues[name].pop(0)


def outcomes(results: list[Result]) -> dict[tuple[str, str], str]:
    """What became of every cell and sample; fails where one has two answers."""
    fates: dict[tuple[str, str], str] = {}
    for result in results:
        samples = [row["sample_id"] for row in result.rows] or [result.sample]
        for sample in samples:
            assert (result.cell, sample) not in fates
            fates[result.cell, sample] = "ok" if result.fault is None else result.fault.reason
    return fates


def expected(units: list[Unit]) -> set[tuple[str, str]]:
    places: set[tuple[str, str]] = set()
    for part in itertools.chain.from_iterable(one.cells for one in units):
        places |= {(part.id, sample) for sample in part.missing}
    return places


@pytest.mark.parametrize("cells", [1, 5, 100])
@pytest.mark.parametrize("workers", [1, 3])
def test_every_sample_of_every_cell_is_answered_once(cells: int, workers: int) -> None:
    units = [unit(cells, f"a{n}", f"b{n}") for n in range(7)]
    fates = outcomes(Crew(Schedule(units), workers).run())
    assert fates.keys() == expected(units)
    assert set(fates.values()) == {"ok"}


@pytest.mark.parametrize("seed", range(20))
def test_workers_that_die_at_any_time_lose_and_double_nothing(seed: int) -> None:
    units = [unit(9, f"a{n}", f"b{n}") for n in range(6)]
    crew = Crew(Schedule(units), 3)
    fates = outcomes(crew.run(seed, sudden_deaths=0.07))
    assert crew.deaths
    assert fates.keys() == expected(units)
    # nobody is blamed for deaths that have nothing to do with it
    assert set(fates.values()) == {"ok"}


@pytest.mark.parametrize("size", [1, 3])
def test_the_cell_and_sample_that_kill_workers_are_found_and_no_other_is_blamed(size: int) -> None:
    units = [unit(6, *[f"{n}-0", f"{n}-1", f"{n}-2"][:size]) for n in range(4)]
    crew = Crew(Schedule(units), 2, lambda cell, sample: (cell, sample) == ("cell2", "1-0"))
    fates = outcomes(crew.run())
    assert fates.keys() == expected(units)
    assert {place for place, what in fates.items() if what == FATE} == {("cell2", "1-0")}
    assert crew.deaths <= TRIES + (size > 1)


@pytest.mark.parametrize("size", [1, 3])
def test_a_sample_that_cannot_be_read_alive_is_given_up_in_every_cell(size: int) -> None:
    units = [unit(40, *[f"{n}-0", f"{n}-1", f"{n}-2"][:size]) for n in range(3)]
    crew = Crew(Schedule(units), 2, lambda cell, sample: sample == "1-0")
    fates = outcomes(crew.run())
    assert fates.keys() == expected(units)
    assert {sample for (_, sample), what in fates.items() if what == FATE} == {"1-0"}
    assert sum(what == FATE for what in fates.values()) == 40
    # of forty cells in pieces, not one death for each
    pieces = -(-40 // LEAST_CELLS)
    assert crew.deaths <= pieces * (TRIES + (size > 1))


def test_a_piece_in_stock_is_not_blamed() -> None:
    schedule = Schedule([unit(1, f"s{n}") for n in range(100)], left=lambda: 100)
    schedule.joins("w", "m")
    pieces = [piece for _, piece in schedule.handouts()]
    assert len(pieces) == DEPTH
    schedule.lost("w", LOST)
    schedule.joins("x", "m")
    again = [piece for _, piece in schedule.handouts()]
    losses = {piece.unit.samples[0]: piece.losses for piece in again}
    assert losses == {pieces[0].unit.samples[0]: 1, pieces[1].unit.samples[0]: 0}


def test_a_unit_is_asked_for_when_there_is_room_for_it() -> None:
    numbers = []

    def units() -> Iterator[Unit]:
        for number in range(10):
            numbers.append(number)
            yield unit(1, f"s{number}")

    schedule = Schedule(units(), left=lambda: 1000)
    assert not list(schedule.handouts())
    assert numbers == []
    schedule.joins("w", "m")
    assert len(list(schedule.handouts())) == DEPTH
    assert numbers == [0, 1]


def test_costs_are_measured_alone_on_their_machine() -> None:
    measured = unit(3, cost=Cost())
    prices = [replace(measured, cells=(part,)) for part in measured.cells]
    schedule = Schedule([unit(1, "s0"), unit(1, "s1"), *prices])
    for worker, machine in (("a", "m"), ("b", "m"), ("c", "n")):
        schedule.joins(worker, machine)

    def given() -> list[tuple[str, bool]]:
        return [(worker, piece.unit.cost is not None) for worker, piece in schedule.handouts()]

    # c is on a machine of its own
    assert given() == [("a", False), ("b", False), ("c", True)]
    schedule.done("a")
    assert given() == []
    schedule.done("b")
    assert given() == [("a", True)]
    schedule.done("c")
    assert [worker for worker, _ in schedule.handouts(quiet=False)] == []
    assert given() == [("c", True)]
    schedule.done("a")
    schedule.done("c")
    assert schedule.over


def test_a_cost_over_which_workers_die_is_given_up() -> None:
    units = [unit(1, "s0"), unit(1, cost=Cost())]
    units[1] = replace(units[1], cells=(replace(units[1].cells[0], id="price"),))
    crew = Crew(Schedule(units), 2, lambda cell, sample: cell == "price")
    assert outcomes(crew.run()) == {("cell0", "s0"): "ok", ("price", ""): FATE}
    assert crew.deaths == TRIES


@pytest.mark.parametrize("workers", [2, 64])
def test_pieces_are_small_enough_and_not_too_small(workers: int) -> None:
    units = [unit(1000, f"s{n}") for n in range(20)]
    left = [20_000]
    sizes: list[int] = []

    def source() -> Iterator[Unit]:
        for one in units:
            left[0] -= 1000
            yield one

    schedule = Schedule(source(), lambda: left[0])
    crew = Crew(schedule, workers)
    note = crew.schedule.done

    def done(worker: str) -> None:
        piece = schedule.working(worker)
        assert piece is not None
        sizes.append(len(piece.unit.cells))
        note(worker)

    schedule.done = done  # type: ignore[method-assign]
    crew.run()
    assert max(sizes) <= MOST_CELLS
    assert sum(sizes) == 20_000
    assert sizes[0] > LEAST_CELLS
    assert sum(size >= LEAST_CELLS for size in sizes) > 0.9 * len(sizes)


@pytest.mark.parametrize(
    ("workers", "grid"),
    [
        (64, (1, 10_000, 1)),
        (64, (5, 22, 50)),
        pytest.param(64, (20, 500, 10), marks=pytest.mark.slow),
        pytest.param(2, (20, 500, 10), marks=pytest.mark.slow),
    ],
)
def test_workers_are_busy_nearly_all_the_time(workers: int, grid: tuple[int, int, int]) -> None:
    # a model of eight billion parameters on a GPU
    seconds = Seconds(encoding=[0.2, 0.6], answers=[0.6, 0.9, 1.4], result=0.002, cell=0.05)
    simulated = Cluster(workers, seconds).run(Grid(*grid))
    assert 1 <= simulated.ratio <= 1.1


@pytest.mark.parametrize("seed", range(5))
def test_where_a_cell_ends_does_not_depend_on_the_order(seed: int) -> None:
    samples = [f"s{n}" for n in range(60)]
    chance = random.Random(seed)
    fails = {sample for sample in samples if chance.random() < 0.85}
    ends = {chance.choice(samples)} if seed % 2 else set()

    def course(order: list[str]) -> tuple[list[str], Fault | None]:
        course = Course(samples)
        for sample in order:
            if not course.going:
                break
            if not course.counts(sample):
                continue
            if sample in ends:
                course.failed(sample, replace(BROKEN, ends=True))
            elif sample in fails:
                course.failed(sample, BROKEN)
            else:
                course.answered(sample)
        assert not course.going
        return [sample for sample in samples if course.counts(sample)], course.ended

    in_order = course(samples)
    assert len(in_order[0]) < len(samples)
    for _ in range(20):
        order = list(samples)
        chance.shuffle(order)
        assert course(order) == in_order


def test_failures_in_a_row_are_those_of_the_task() -> None:
    samples = [f"s{n}" for n in range(30)]
    course = Course(samples)
    for sample in samples[: PATIENCE - 1]:
        course.failed(sample, BROKEN)
    assert course.failures_before(samples[PATIENCE - 1]) == PATIENCE - 1
    assert course.failures_before(samples[PATIENCE]) == 0
    # behind a gap ten fail: that is where the cell ends, unless the gap fails as well
    for sample in samples[PATIENCE : 2 * PATIENCE]:
        course.failed(sample, BROKEN)
    assert not course.counts(samples[2 * PATIENCE])
    assert course.counts(samples[2 * PATIENCE - 1])
    course.failed(samples[PATIENCE - 1], BROKEN)
    assert not course.counts(samples[PATIENCE])
    assert not course.going
