"""Cells: the folders a study is made of, read for folding; a damaged one is named and the others
are kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from prunebench.border.text import one_line
from prunebench.study import record
from prunebench.study.record import BASELINE, Damaged

CONTROL = "random"
"""The method that any other must beat at the same budget."""

REASON = 1000
"""Characters of a reason that tables keep; cell.json has all of it."""

PER_SAMPLE = ("available", "tokens_mean", "tokens_input", "tokens_kv", "flops_total")
"""Numbers of a sample that are compared with those of the unpruned model."""


class ReportError(ValueError):
    """A study, or a part of one, that cannot be folded."""


@dataclass(frozen=True)
class Metric:
    """One number of a cell as its cell.json has it; absent parts are None."""

    name: str
    value: float | None
    unit: str = ""
    stderr: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    higher_is_better: bool | None = None

    @classmethod
    def read(cls, entry: dict[str, Any]) -> Metric:
        """An entry that the record's checks let pass."""
        return cls(
            entry["metric"],
            entry.get("value"),
            entry.get("unit") or "",
            entry.get("stderr"),
            entry.get("ci_low"),
            entry.get("ci_high"),
            entry.get("n"),
            entry.get("higher_is_better"),
        )


@dataclass(frozen=True)
class Cell:
    """One cell as its folder tells it; `settings` is one line of JSON, `reason` the first line of
    what was recorded.

    `control` marks a method that stands in the study only to be compared with; `commit` ends in
    "+dirty" where the code had changes that are in no commit. Of `asked` samples `answered` are
    behind the numbers; None where a cell does not say.
    """

    folder: Path
    id: str
    kind: str
    model: str
    method: str
    settings: str
    control: bool
    budget: str
    budget_kind: str
    task: str
    seed: int
    status: str
    reason: str
    higher_is_better: bool
    asked: int | None
    answered: int | None
    metrics: tuple[Metric, ...]
    hardware: str
    dtype: str
    commit: str

    @classmethod
    def read(cls, folder: Path) -> Cell:
        """Raises ReportError that names the folder and says what is wrong with it."""
        try:
            facts = record.read_facts(folder)
        except Damaged as error:
            raise _damaged(folder.name, str(error)) from None
        except OSError as error:
            raise _damaged(folder.name, f"it cannot be read: {error.strerror}") from None
        if facts is None:
            raise ReportError(
                f"cell {_short(folder.name)} has no cell.json: it was not finished; sweep again"
            )
        return cls._of(folder, facts)

    @classmethod
    def _of(cls, folder: Path, facts: Any) -> Cell:
        provenance = facts["provenance"]
        lines = facts["reason"].strip().splitlines()
        counts = facts.get("samples") or {}
        return cls(
            folder=folder,
            id=facts["id"],
            kind=facts["kind"],
            model=facts["model"],
            method=facts["method"],
            settings=json.dumps(facts["settings"], sort_keys=True, separators=(",", ":")),
            control=bool(facts.get("control")) or facts["method"] in (BASELINE, CONTROL),
            budget=facts["budget"],
            budget_kind=facts["budget_kind"],
            task=facts["task"],
            seed=facts["seed"],
            status=facts["status"],
            reason=one_line(lines[0], REASON) if lines else "",
            higher_is_better=facts.get("higher_is_better") is not False,
            asked=counts.get("asked"),
            answered=counts.get("answered"),
            metrics=tuple(map(Metric.read, facts["metrics"])),
            hardware=provenance.get("hardware") or "",
            dtype=provenance.get("dtype") or "",
            commit=(provenance.get("commit") or "") + ("+dirty" if provenance.get("dirty") else ""),
        )

    @property
    def ok(self) -> bool:
        return self.status == "ok"

    def metric(self, name: str) -> Metric | None:
        """The metric of that name, None where the cell has none or its value is missing."""
        return next((m for m in self.metrics if m.name == name and m.value is not None), None)

    @property
    def whole(self) -> bool:
        """Whether its numbers speak for every sample of the task."""
        return self.asked is None or self.asked == self.answered

    @property
    def question(self) -> tuple[Any, ...]:
        """What it answers; two cells of one study never answer the same."""
        return (
            self.kind,
            self.model,
            self.method,
            self.budget_kind,
            self.budget,
            self.task,
            self.seed,
        )

    @cached_property
    def samples(self) -> pd.DataFrame:
        """Score, tokens and FLOPs of every sample by sample_id; raises ReportError where the file
        is damaged.
        """
        try:
            table = record.samples(self.folder / "samples.parquet", PER_SAMPLE)
        except Damaged as error:
            raise _damaged(self.id, str(error)) from None
        frame = pd.DataFrame({name: table.column(name).to_pylist() for name in table.column_names})
        numbers = [name for name in ("score", *PER_SAMPLE) if name in frame]
        return frame.set_index("sample_id")[numbers].astype(float).sort_index()

    @property
    def scores(self) -> pd.Series[float]:
        """The primary score of every sample by sample_id, NaN where it was not answered; raises
        ReportError.
        """
        return self.samples["score"]


def read(study: Path) -> tuple[list[Cell], list[str]]:
    """All cells of a study sorted by id, and a warning for every one that could not be read.

    Raises ReportError where the folder is no study, or has no readable cell at all.
    """
    folder = study / "cells"
    try:
        plain = folder.is_dir() and not folder.is_symlink()
        paths = (
            sorted(path for path in folder.iterdir() if not path.name.startswith((".", "_")))
            if plain
            else []
        )
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        detail = getattr(error, "strerror", None) or error
        raise ReportError(f"{_short(study)} cannot be read: {detail}") from None
    if not plain:
        raise ReportError(
            f"{_short(study)} is no study: it has no folder 'cells'; run a sweep into it first"
        )
    cells: dict[tuple[Any, ...], Cell] = {}
    warnings: list[str] = []
    for path in paths:
        try:
            cell = Cell.read(path)
        except ReportError as error:
            warnings.append(str(error))
            continue
        twin = cells.setdefault(cell.question, cell)
        if twin is not cell:
            warnings.append(
                f"cell {_short(cell.id)} answers what {_short(twin.id)} does, and is left out; delete one of them"
            )
    if not cells:
        raise ReportError(one_line("; ".join([f"{_short(study)} has no finished cell", *warnings])))
    return list(cells.values()), warnings


def joined(values: Iterable[str]) -> str:
    """Distinct non-empty texts joined into one, in order of first appearance."""
    return "; ".join(dict.fromkeys(value for value in values if value))


def _damaged(cell: str, detail: str) -> ReportError:
    return ReportError(
        one_line(f"cell {_short(cell)} is damaged: {detail}; delete its folder and sweep again")
    )


def _short(name: str | Path) -> str:
    return one_line(str(name), 100)
