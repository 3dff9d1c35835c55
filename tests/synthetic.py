"""Synthetic studies of any size: real cell files, cell.json and samples.parquet as the store writes
them, of answers that are drawn.

`python tests/synthetic.py FOLDER CELLS [SAMPLES]` writes one of about so many cells.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from prunebench.study import facts
from prunebench.study.columns import SAMPLES
from prunebench.study.record import BASELINE, CONTROL, CellRecord, Metric
from prunebench.study.seal import digest, sealed
from prunebench.study.statistics import mean_interval
from prunebench.study.tables import encoded

KINDS = ("color", "count", "relation", "text")
AVAILABLE = 256
BUDGETS = ("0.5", "0.25", "0.1")
PROVENANCE = {
    "prunebench": "0.1.0",
    "commit": "0123456789abcdef0123456789abcdef01234567",
    "dirty": False,
    "versions": {"python": "3.11.7", "torch": "2.15.0", "transformers": "5.23.0"},
    "hardware": "a processor (2 cores)",
    "cores": 2,
    "threads": 1,
    "device": "cpu",
    "dtype": "float32",
    "attention": "sdpa",
    "manner": {"harness": "processor", "max_new_tokens": 128, "fetches": False},
    "seeds": {"grid": 0},
    "date": "2026-01-01T00:00:00+00:00",
}


@dataclass(frozen=True)
class Shape:
    """How many of each a study has; of `methods` the first is the unpruned model, which has one
    budget, the second the random control.
    """

    models: int
    tasks: int
    methods: int = 17
    seeds: int = 3
    samples: int = 25

    @property
    def cells(self) -> int:
        """How many cells that comes to."""
        return self.models * self.tasks * self.seeds * (1 + (self.methods - 1) * len(BUDGETS))


SHAPES = {1_000: Shape(1, 7), 10_000: Shape(4, 17), 100_000: Shape(20, 34)}
"""Studies of about 10^3, 10^4 and 10^5 cells."""


@dataclass(frozen=True)
class Point:
    """What one cell is of."""

    model: str
    method: str
    budget: str
    task: str
    seed: int

    @property
    def id(self) -> str:
        """The cell's name."""
        return f"{self.model}__{self.method}__{self.budget}__{self.task}__s{self.seed}"


def write(study: Path, shape: Shape) -> int:
    """Write the cells of a study; gives their number."""
    count = 0
    for point in points(shape):
        folder = study / "cells" / point.id
        folder.mkdir(parents=True)
        rows = rows_of(point, shape.samples)
        table = encoded("samples", rows)
        (folder / "samples.parquet").write_bytes(table)
        content = record_of(point, rows).content() | {"files": {"samples.parquet": digest(table)}}
        text = facts.to_json(sealed(facts.plain(content)), indent=1)
        (folder / "cell.json").write_text(text)
        count += 1
    return count


def points(shape: Shape) -> Iterator[Point]:
    """Every cell of a study of that shape."""
    methods = [BASELINE, CONTROL, *(f"method{n:02}" for n in range(shape.methods - 2))]
    models, tasks = range(shape.models), range(shape.tasks)
    for model, task, method, seed in product(models, tasks, methods, range(shape.seeds)):
        for budget in ("1.0",) if method == BASELINE else BUDGETS:
            yield Point(f"model{model:02}", method, budget, f"task{task:02}", seed)


def rows_of(point: Point, samples: int) -> list[dict[str, Any]]:
    """The answers of a cell. Questions are the same in every cell of a task, of every second task
    two an image; a method is as good as its name's number says.
    """
    of_task = np.random.default_rng(_number(point.task))
    hard = of_task.random(samples)
    available = of_task.integers(AVAILABLE // 4, AVAILABLE, samples)
    evidence = of_task.integers(1, 20, samples)
    rng = np.random.default_rng(_number(point.id))
    share = float(point.budget)
    skill = 0.9 * share ** (0.1 + _number(point.method) % 10 / 50)
    right = rng.random(samples) < np.clip(skill + 0.3 * (0.5 - hard), 0.02, 0.98)
    each = 2 if int(point.task[-1]) % 2 == 0 else 1
    rows = []
    for number in range(samples):
        tokens = max(1, round(share * int(available[number])))
        flops = {"vision": 10**9, "projector": 10**8, "llm": 10**6 * tokens, "head": 17_920}
        flops |= {"selector": 10**5, "total": 0}
        flops["total"] = sum(flops.values())
        right_answer = "yes" if hard[number] > 0.5 else "no"
        wrong_answer = "no" if right_answer == "yes" else "yes"
        rows.append(
            {
                "sample_id": f"{point.task}-{number:05}",
                "doc_id": number,
                "prediction": right_answer if right[number] else wrong_answer,
                "reference": right_answer,
                "score": float(right[number]),
                "status": "ok",
                "error": None,
                "available": int(available[number]),
                "stages": [tokens],
                "tokens_input": float(tokens),
                "tokens_mean": float(tokens),
                "tokens_kv": float(tokens),
                "evidence_recall": float(min(1.0, share * 1.2)),
                "evidence_tokens": int(evidence[number]),
                "perfect": float(share > 0.2 or number % 2),
                **{f"flops_{part}": count for part, count in flops.items()},
                "kv_bytes": 1024 * tokens,
                "kv_bytes_padded": 1024 * tokens,
                "seconds": 0.05,
                "question_type": KINDS[number % len(KINDS)],
                "complexity": number % 5,
                "image": sha256(f"{point.task} {number // each}".encode()).hexdigest()[:16],
            }
        )
    return rows


def record_of(point: Point, rows: list[dict[str, Any]]) -> CellRecord:
    """What cell.json says of these answers."""
    metrics = []
    for column in SAMPLES:
        numbers = [float(row[column.name]) for row in rows if column.metric and column.name in row]
        if numbers:
            mean, spread = sum(numbers) / len(numbers), mean_interval(numbers)
            better = column.higher_is_better
            metrics.append(Metric(column.metric, mean, column.unit, *spread, len(numbers), better))
    scores = [row["score"] for row in rows]
    spread = mean_interval(scores)
    for name in ("score", "exact_match"):
        mean = sum(scores) / len(scores)
        metrics.insert(0, Metric(name, mean, "score", *spread, len(scores), True))
    return CellRecord(
        id=point.id,
        fingerprint=sha256(point.id.encode()).hexdigest(),
        kind="quality",
        model=point.model,
        method=point.method,
        pruner=point.method,
        settings={"layer": 2},
        control=point.method in (BASELINE, CONTROL),
        budget=point.budget,
        budget_kind="" if point.method == BASELINE else "mean",
        task=point.task,
        seed=point.seed,
        status="ok",
        reason="",
        samples={"asked": len(rows), "answered": len(rows)},
        metric="exact_match",
        higher_is_better=True,
        metrics=tuple(metrics),
        provenance=PROVENANCE,
    )


def _number(text: str) -> int:
    return int.from_bytes(sha256(text.encode()).digest()[:4])


if __name__ == "__main__":
    wanted = SHAPES[int(sys.argv[2])]
    print(write(Path(sys.argv[1]), wanted), "cells")
