"""A simulated cluster: the schedule that hands out a sweep's work, on machines that are not there,
with the seconds that a real one took.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from prunebench.run.backend import ModelSetup
from prunebench.run.schedule import Piece, Schedule
from prunebench.run.work import CellPart, Result, TaskSource, Unit

SETUP = ModelSetup("tiny-qwen2.5-vl")


@dataclass(frozen=True)
class Seconds:
    """What things take: reading and encoding a sample, an answer of each of some cells, a message
    to a worker and back, and what the driver is busy with a result, and with a cell whose samples
    are all there.
    """

    encoding: Sequence[float]
    answers: Sequence[float]
    message: float = 0.005
    result: float = 0.001
    cell: float = 0.0


@dataclass(frozen=True)
class Simulated:
    """What became of it: `makespan` is the time until the last answer is stored, and `ideal` that
    in which the workers would be through if all work were shared evenly among them, each sample
    encoded once for all cells of its task.
    """

    makespan: float
    ideal: float
    pieces: int

    @property
    def ratio(self) -> float:
        """How much longer than ideal it took."""
        return self.makespan / self.ideal


@dataclass
class Grid:
    """So many cells of so many tasks, each with so many samples."""

    tasks: int
    cells_of_a_task: int
    samples: int

    def __post_init__(self) -> None:
        self.left = self.tasks * self.cells_of_a_task * self.samples

    def sources(self) -> list[TaskSource]:
        """The tasks."""
        return [TaskSource(f"task{task}", self.samples, None) for task in range(self.tasks)]

    def units(self) -> Iterator[Unit]:
        """One unit a sample, as a sweep makes them."""
        for task, source in enumerate(self.sources()):
            for number in range(self.samples):
                sample = f"{task}-{number}"
                cells = [
                    CellPart(f"{task}/{cell}", {}, None, 0, missing=(sample,))
                    for cell in range(self.cells_of_a_task)
                ]
                self.left -= len(cells)
                yield Unit(SETUP, source, tuple(cells), (sample,))


class Cluster:
    """Workers that take the measured seconds, drawn anew for every sample and cell, and one driver
    that hears of one thing after the other.
    """

    def __init__(self, workers: int, seconds: Seconds, seed: int = 0) -> None:
        self.workers, self.seconds = workers, seconds
        self.chance = random.Random(seed)
        self.costs: dict[str, float] = {}  # how much slower than others a cell is
        self.encoding: dict[str, float] = {}
        self.work = 0.0

    def run(self, grid: Grid) -> Simulated:
        """Simulate a sweep from when all workers have their model."""
        schedule = Schedule(grid.units(), lambda: grid.left)
        free = {f"w{number}": 0.0 for number in range(self.workers)}
        for name in free:
            schedule.joins(name, machine=name)
        queues: dict[str, list[Piece]] = {name: [] for name in free}
        events: list[tuple[float, str]] = []
        now, pieces = 0.0, 0
        missing = Counter(dict.fromkeys(grid.sources(), grid.cells_of_a_task * grid.samples))
        while True:
            for name, piece in schedule.handouts():
                pieces += 1
                queues[name].append(piece)
                if len(queues[name]) == 1:
                    heapq.heappush(events, (self._end(now, piece), name))
            if schedule.over:
                break
            ended, name = heapq.heappop(events)
            piece = queues[name].pop(0)
            results = [
                Result(part.id, ({"sample_id": part.missing[0]},)) for part in piece.unit.cells
            ]
            if queues[name]:
                heapq.heappush(events, (self._end(ended, queues[name][0]), name))
            # the driver may still be busy with what others sent
            now = max(now, ended) + self.seconds.result * len(results)
            for result in results:
                schedule.came(name, result)
            schedule.done(name)
            missing[piece.unit.task] -= len(results)
            if not missing[piece.unit.task] and not schedule.over:
                # the cells of a task are finished together, and nobody else is heard meanwhile
                now += self.seconds.cell * grid.cells_of_a_task
        return Simulated(now, self.work / self.workers, pieces)

    def _end(self, begin: float, piece: Piece) -> float:
        """When a worker is through with a piece that it begins then."""
        unit = piece.unit
        (sample,) = unit.samples
        if sample not in self.encoding:
            self.encoding[sample] = self.chance.choice(self.seconds.encoding)
            self.work += self.encoding[sample]
        answers = 0.0
        for part in unit.cells:
            if part.id not in self.costs:
                self.costs[part.id] = self.chance.choice(self.seconds.answers)
            answers += self.costs[part.id] * self.chance.uniform(0.8, 1.25)
        self.work += answers
        return begin + self.seconds.message + self.encoding[sample] + answers
