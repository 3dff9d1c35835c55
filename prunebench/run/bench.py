"""Bench: what methods take beside the unpruned model, on images drawn at a stated size.

No task and no answer: only time and memory, so that random weights will do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from prunebench.border.bounds import Bound
from prunebench.run import options
from prunebench.run.grid import build
from prunebench.run.keys import GridError, check_values, key
from prunebench.run.question import DEFAULT_MODEL, DEFAULT_TASK, DTYPES, WEIGHTS, Grid

if TYPE_CHECKING:
    from prunebench.run.cell import Cell

LISTS = ("methods", "budgets", "images", "batches", "concurrent")

OF_GRID = ("methods", "budgets", "weights", "device", "dtype", "attention", "threads", "seed")
"""Keys that mean what they mean in a grid."""

SIZE = re.compile(r"([1-9]\d{1,3})x([1-9]\d{1,3})")
"""A size as it is written: width, x, height."""

AGAIN = "baseline"
"""The label of the unpruned model measured against itself: a ratio that is not 1 says that the
machine is too busy to measure anything.
"""


@dataclass
class Bench:
    """What is measured: every method at every budget, image size and batch size."""

    model: str = key(
        DEFAULT_MODEL, "The model: an alias, a hub id or a local folder.", "model=qwen2.5-vl-7b"
    )
    methods: list[Any] = key(["all"], "Methods, as in a grid.", "methods=divprune,fastv")
    budgets: list[Any] = key(
        ["0.5", "0.25", "0.1"], "Budgets, as in a grid.", "budgets=own,0.25,kv:0.25"
    )
    images: list[str] = key(
        ["448x448"], "Sizes of the image in pixels, width and height.", "images=448x448,1344x1344"
    )
    batches: list[int] = key([1], "Prompts that run together.", "batches=1,8")
    concurrent: list[int] = key(
        [1],
        "Requests in flight at once, of one batch each; above 1 phases have no time of their own.",
        "concurrent=1,4",
    )
    new_tokens: int = key(
        8, "Tokens that every timed run generates.", "new_tokens=64", Bound(least=2, most=10_000)
    )
    pairs: int = key(
        10,
        "Runs of the method and of the unpruned model in pairs, at least.",
        "pairs=30",
        Bound(least=1, most=100_000),
    )
    seconds: float = key(
        10.0, "Seconds that the pairs of a method take, at least.", "seconds=2", Bound(least=0)
    )
    warmup: int = key(
        2, "Pairs before these, which are thrown away.", "warmup=5", Bound(least=0, most=10_000)
    )
    round: int = key(
        1,
        "Cases that are timed in turn, with one run of the unpruned model for all of them.",
        "round=6",
        Bound(least=1, most=100),
    )
    weights: str = key(
        "pretrained",
        "Whether the model has its own weights, or random ones, which cost the same.",
        "weights=random",
        Bound(choices=WEIGHTS),
    )
    device: str = key("auto", "Where the model runs, as in a grid.", "device=cuda")
    dtype: str = key(
        "auto", "The numbers that the model computes with.", "dtype=bfloat16", Bound(choices=DTYPES)
    )
    attention: str = key(
        "sdpa", "The attention kernel, by its name in transformers.", "attention=flash_attention_2"
    )
    threads: int | None = key(None, "Threads of the CPU, as in a grid.", "threads=2")
    seed: int = key(0, "The number that whatever is random starts from.", "seed=1")
    out: str = key(
        "bench",
        "The folder that bench.csv and pairs.csv are written to; what stands there is kept.",
        "out=results/latency/mine",
    )


@dataclass(frozen=True)
class Case:
    """One method at one budget; None is the unpruned model once more."""

    cell: Cell | None
    image: str
    batch: int
    concurrent: int = 1

    @property
    def label(self) -> str:
        """What tables call the method."""
        return AGAIN if self.cell is None else self.cell.variant.label

    @property
    def budget(self) -> str:
        """The budget, with its kind where it is not the mean."""
        if self.cell is None:
            return "1.0"
        kind = self.cell.budget_kind
        return self.cell.amount if kind in ("", "mean") else f"{kind}:{self.cell.amount}"


def load(words: Iterable[str]) -> tuple[Bench, Grid]:
    """What key=value words ask for, and the grid that holds the methods; raises GridError or
    OptionError.
    """
    content: dict[str, Any] = {}
    settings = options.override(content, words, Bench, LISTS)
    bench = options.structured(Bench, content)
    check_values(bench)
    for text in bench.images:
        size_of(text)
    for name, most in (("batches", 4096), ("concurrent", 256)):
        for count in getattr(bench, name):
            if not 1 <= count <= most:
                raise GridError(f"{name} has {count}; it takes numbers from 1 to {most}")
    shared = {name: getattr(bench, name) for name in OF_GRID}
    grid = build({"models": [bench.model], **shared, "cost": False}, settings)
    return bench, grid


def size_of(text: str) -> tuple[int, int]:
    """Width and height in pixels; raises GridError."""
    match = SIZE.fullmatch(text)
    if match is None:
        raise GridError(f"images has {text!r}; a size is written such as 448x448, from 10 to 9999")
    return int(match[1]), int(match[2])


def cases(bench: Bench, grid: Grid) -> list[Case]:
    """All that is measured, by image size, batch and requests at once, the unpruned model against
    itself first.
    """
    cells = [None, *grid.cells([DEFAULT_TASK])]
    result = []
    for image, batch, count in product(bench.images, bench.batches, bench.concurrent):
        result += [Case(cell, image, batch, count) for cell in cells]
    return result
