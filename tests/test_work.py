"""Work: a unit is plain data, comes to the same wherever and however often it is worked at, and
leaves writing and counting to others.
"""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from test_grid import MINE

from prunebench.cli.bars import SweepBar
from prunebench.run.active import PATIENCE
from prunebench.run.backend import ModelSetup
from prunebench.run.grid import Cost, Grid
from prunebench.run.progress import Silent
from prunebench.run.runner import sweep
from prunebench.run.transformers_backend import TransformersBackend
from prunebench.run.work import (
    CellPart,
    Result,
    TaskSource,
    Unit,
    Worker,
    load_benchmark,
    work,
)
from prunebench.sites import INPUT, PIXELS
from prunebench.tokens import Signal

SETUP = ModelSetup("tiny-qwen2.5-vl", threads=1)
TASK = TaskSource("scenes", 3, None)
SAMPLES = ("1-10000000-color", "1-40000001-shape", "1-2-number")

# fails on every second sample, counted by the samples' numbers
FICKLE = MINE.replace(
    "return tokens.features",
    "if tokens.seed % 2:\n            raise RuntimeError('odd')\n        return tokens.features",
)

ELSEWHERE = """
import pickle, sys
from prunebench.run.transformers_backend import TransformersBackend
from prunebench.run.work import Worker, load_benchmark, work
unit = pickle.load(sys.stdin.buffer)
worker = Worker(TransformersBackend.load(unit.setup), {unit.task: load_benchmark(unit.task)})
pickle.dump(list(work(unit, worker)), sys.stdout.buffer)
"""


@pytest.fixture(scope="module")
def backend() -> TransformersBackend:
    return TransformersBackend.load(SETUP)


def worker_on(backend: TransformersBackend) -> Worker:
    """A worker of the test's own: pytest sets a variable of the environment before each, which a
    worker that was made earlier would take for a method's doing.
    """
    return Worker(backend, {TASK: load_benchmark(TASK)})


def part(name: str, budget: str | None = "0.5", **options: Any) -> CellPart:
    method = {"name": name, "label": Path(name).stem}
    options = {"missing": SAMPLES, **options}
    return CellPart(f"{name} {budget}", method, budget, seed=0, **options)


def plain(results: Iterator[Result] | list[Result]) -> list[Any]:
    """What results say, without seconds and tracebacks."""
    lines: list[Any] = []
    for result in results:
        rows = [{**row, "seconds": None} for row in result.rows]
        fault = result.fault and (result.fault.status, result.fault.reason)
        lines.append((result.cell, result.sample, fault, rows))
    return lines


def test_a_unit_comes_to_the_same_twice_and_in_another_process(
    tmp_path: Path, backend: TransformersBackend
) -> None:
    worker = worker_on(backend)
    (tmp_path / "fickle.py").write_text(FICKLE)
    parts = [part("none", None), part("random"), part("resize"), part("fastv", "0.1")]
    unit = Unit(SETUP, TASK, (*parts, part(str(tmp_path / "fickle.py"))), SAMPLES)
    sent = pickle.dumps(unit)
    assert pickle.loads(sent) == unit
    assert len(sent) < 10_000
    here = plain(work(unit, worker))
    assert plain(work(unit, worker)) == here
    command = [sys.executable, "-c", ELSEWHERE]
    process = subprocess.run(command, input=sent, capture_output=True, check=True)
    assert plain(pickle.loads(process.stdout)) == here
    failed = {(cell, fault[0]) for cell, _, fault, _ in here if fault is not None}
    assert failed == {(f"{tmp_path / 'fickle.py'} 0.5", "failed")}
    statuses: list[tuple[str, str]] = []
    for cell, _, _, rows in here:
        statuses += [(cell, row["status"]) for row in rows]
    assert statuses.count(("fastv 0.1", "infeasible")) == 3
    answered = [cell for cell, status in statuses if status == "ok"]
    assert {name: answered.count(name) for name in ("none None", "random 0.5", "resize 0.5")} == {
        "none None": 3,
        "random 0.5": 3,
        "resize 0.5": 3,
    }


def test_samples_of_a_group_are_those_of_units_of_one(backend: TransformersBackend) -> None:
    worker = worker_on(backend)
    parts = (part("none", None), part("random"))
    together = plain(work(Unit(SETUP, TASK, parts, SAMPLES), worker))
    alone: dict[str, list[Any]] = {}
    for sample in SAMPLES:
        for cell, _, _, rows in plain(work(Unit(SETUP, TASK, parts, (sample,)), worker)):
            alone.setdefault(cell, []).extend(rows)
    for cell, _, _, rows in together:
        unpadded = [{**row, "kv_bytes_padded": None} for row in rows]
        assert unpadded == [{**row, "kv_bytes_padded": None} for row in alone[cell]]


def test_where_memory_runs_out_half_of_a_group_is_asked_at_a_time(
    backend: TransformersBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it fits; what does not fit alone is a row."""
    sizes: list[int] = []
    answer = TransformersBackend.answer

    def small(self: Any, encoded: Any, *arguments: Any) -> Any:
        ids = [request.sample_id for request in encoded.samples.requests]
        sizes.append(len(ids))
        if len(ids) > 2 or SAMPLES[-1] in ids:
            raise torch.OutOfMemoryError("no room")
        return answer(self, encoded, *arguments)

    monkeypatch.setattr(TransformersBackend, "answer", small)
    task = replace(TASK, limit=5)
    benchmark = load_benchmark(task)
    order = tuple(request.sample_id for request in benchmark.requests[3:]) + SAMPLES
    unit = Unit(SETUP, task, (part("none", None, missing=order),), order)
    worker = Worker(backend, {task: benchmark})
    results = list(work(unit, worker))
    assert sizes == [5, 2, 3, 1, 2, 1, 1]
    assert [len(result.rows) for result in results] == [2, 1, 1, 0]
    fault = results[-1].fault
    assert fault is not None
    assert (fault.status, results[-1].sample) == ("oom", SAMPLES[-1])


def test_a_method_that_was_edited_is_bound_anew(
    tmp_path: Path, backend: TransformersBackend
) -> None:
    worker = worker_on(backend)
    file = tmp_path / "mine.py"
    tokens: list[Any] = []
    for code in (MINE, MINE.replace("return tokens", "return -tokens")):
        file.write_text(code)
        cell = replace(part(str(file)), fingerprint=str(len(tokens)))
        (result,) = work(Unit(SETUP, TASK, (cell,), SAMPLES[:1]), worker)
        tokens.append(result.rows[0]["evidence_recall"])
    assert tokens[0] != tokens[1]


def test_results_come_as_they_are_had(tmp_path: Path, backend: TransformersBackend) -> None:
    worker = worker_on(backend)
    mark = tmp_path / "asked"
    code = MINE.replace(
        "return tokens", f"open({str(mark)!r}, 'a').write('x')\n        return tokens"
    )
    (tmp_path / "mine.py").write_text(code)
    parts = (part("none", None), part(str(tmp_path / "mine.py")))
    results = work(Unit(SETUP, TASK, parts, SAMPLES[:1]), worker)
    assert next(results).cell == "none None"
    assert not mark.exists()
    assert next(results).rows
    assert mark.read_text() == "x"


def test_a_method_that_fails_again_and_again_is_asked_no_further(
    tmp_path: Path, backend: TransformersBackend
) -> None:
    worker = worker_on(backend)
    (tmp_path / "broken.py").write_text(MINE.replace("return tokens", "raise KeyError\n#"))
    broken = str(tmp_path / "broken.py")
    unit = Unit(SETUP, TASK, (part(broken, failures=PATIENCE - 2),), SAMPLES)
    assert [result.sample for result in work(unit, worker)] == list(SAMPLES[:2])
    few = replace(unit, cells=(part(broken, missing=SAMPLES[1:2]),))
    assert [result.sample for result in work(few, worker)] == [SAMPLES[1]]


def test_a_unit_of_cost_is_its_pairs(backend: TransformersBackend) -> None:
    worker = worker_on(backend)
    cost = Cost(inputs=2, pairs=2, warmup=0, new_tokens=2)
    for cell in (part("random"), part("resize")):
        (result,) = work(Unit(SETUP, TASK, (cell,), cost=cost), worker)
        assert result.fault is None
        assert {(row["pair"], row["variant"]) for row in result.rows} == {
            (pair, variant) for pair in (0, 1) for variant in ("method", "baseline")
        }


def test_a_unit_of_cost_says_what_its_ratios_could_come_to(backend: TransformersBackend) -> None:
    worker = worker_on(backend)
    cost = Cost(inputs=2, pairs=4, warmup=0, new_tokens=2)
    limits = {}
    for name in ("random", "resize"):
        (result,) = work(Unit(SETUP, TASK, (part(name),), cost=cost), worker)
        # two runs an input that follow each other
        (count,) = (one.n for one in result.metrics if one.metric == "latency_itself_ratio")
        assert count == 2
        numbers = {one.metric: one.value for one in result.metrics if one.value is not None}
        saved, ceiling = 1 - numbers["latency_total_ratio"], numbers["total_ceiling"]
        assert numbers["total_reached"] == pytest.approx(saved / (1 - ceiling))
        limits[name] = numbers
    assert limits["random"]["prefill_ceiling"] < limits["random"]["total_ceiling"]
    # a smaller image spares the encoder, too
    assert limits["resize"]["total_ceiling"] < limits["random"]["total_ceiling"] < 1


def test_a_backend_says_what_it_lacks(backend: TransformersBackend) -> None:
    assert backend.lacks(Signal.KEYS) is None
    assert "has no CLS token" in str(backend.lacks(Signal.CLS_ATTENTION))
    assert backend.lacks(INPUT) is None
    assert backend.lacks(PIXELS) is None
    fixed = TransformersBackend.load(ModelSetup("tiny-llava-1.5", threads=1))
    assert "scales every image to its own resolution" in str(fixed.lacks(PIXELS))


class Diary(Silent):
    """Writes down what a sweep says."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, Any]] = []

    def begin(self, cells: int, finished: int, answers: int) -> None:
        self.lines.append(("begin", answers))

    def working(self, what: str) -> None:
        self.lines.append(("working", what))

    def advance(self, answers: int) -> None:
        self.lines.append(("advance", answers))

    def finished(self, cell: str, status: str, reason: str) -> None:
        self.lines.append(("finished", status))


def test_answers_are_counted_while_no_cell_is_finished(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(MINE.replace("return tokens", "raise KeyError\n#"))
    grid = Grid(
        methods=["none", "random", str(tmp_path / "broken.py")],
        budgets=["0.5"],
        limit=12,
        batch=1,
        controls=False,
        cost=Cost(enabled=False),
        out=str(tmp_path / "study"),
    )
    diary = Diary()
    sweep(grid, diary)
    names = [name for name, _ in diary.lines]
    assert names[:3] == ["begin", "working", "advance"]
    assert names[-3:] == ["finished"] * 3
    assert "finished" not in names[:-3]
    assert diary.lines[0] == ("begin", 36)
    assert diary.lines[1] == ("working", "scenes: sample 1 of 12 in 3 cells")
    assert ("working", "scenes: sample 12 of 12 in 2 cells") in diary.lines
    # what a cell that is given up is not asked any more counts as well
    assert sum(number for name, number in diary.lines if name == "advance") == 36


def test_the_bar_says_what_is_going_on_and_how_fast() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=160)
    with SweepBar(console) as bar:
        bar.begin(cells=22, finished=0, answers=40)
        bar.working("scenes: sample 3 of 20 in 2 cells")
        for _ in range(5):
            bar.advance(1)
        bar.bar.refresh()
        bar.finished("a", "failed", "no idea")
        bar.working("scenes: sample 4 of 20 in 2 cells")
        bar.bar.refresh()
    text = screen.getvalue()
    assert "sample 3 of 20 in 2 cells" in text
    assert "5/40" in text
    assert "answers/s" in text
    assert "sample 4 of 20 in 2 cells, 1 cell failed" in text
    assert "[1/22] a failed no idea" in text
