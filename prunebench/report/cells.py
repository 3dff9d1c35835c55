"""Cells: the folders a study is made of, read for folding; a damaged one is named and the others are kept."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from prunebench.seal import fault

BASELINE = "none"
"""The method that prunes nothing: what relative numbers are relative to."""

CONTROL = "random"
"""The method that any other must beat at the same budget."""

KINDS = ("quality", "cost")
STATUSES = ("ok", "failed", "oom", "unsupported", "infeasible")
REQUIRED = ("id", "kind", "model", "method", "budget", "seed", "status", "metrics")


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
    def read(cls, entry: Any) -> Metric:
        """Raises ReportError for an entry without a name, or with a number that is none."""
        if not isinstance(entry, dict) or not isinstance(entry.get("metric"), str):
            raise ReportError(f"metric {entry!r} has no name")
        name = entry["metric"]
        n = _number(name, entry.get("n"))
        return cls(
            name,
            _number(name, entry.get("value")),
            str(entry.get("unit") or ""),
            _number(name, entry.get("stderr")),
            _number(name, entry.get("ci_low")),
            _number(name, entry.get("ci_high")),
            None if n is None else int(n),
            entry.get("higher_is_better"),
        )


@dataclass(frozen=True)
class Cell:
    """One cell as its folder tells it; `settings` is one line of JSON, `reason` the first line of what was recorded.

    `control` marks a method that stands in the study only to be compared with; `commit` ends in "+dirty" where the code
    had changes that are in no commit.
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
    metrics: tuple[Metric, ...]
    hardware: str
    dtype: str
    commit: str

    @classmethod
    def read(cls, folder: Path) -> Cell:
        """Raises ReportError that names the folder and says what is wrong with it."""
        try:
            facts = json.loads((folder / "cell.json").read_text(encoding="utf-8"))
            _check(facts, folder)
            return cls._of(folder, facts)
        except FileNotFoundError:
            raise ReportError(f"cell {folder.name} has no cell.json: it was not finished") from None
        except (OSError, ValueError) as error:
            raise ReportError(f"cell {folder.name} is damaged: {error}; delete the folder and sweep again") from None

    @classmethod
    def _of(cls, folder: Path, facts: Any) -> Cell:
        provenance = facts.get("provenance") or {}
        lines = str(facts.get("reason") or "").strip().splitlines()
        return cls(
            folder=folder,
            id=facts["id"],
            kind=facts["kind"],
            model=str(facts["model"]),
            method=str(facts["method"]),
            settings=json.dumps(facts.get("settings") or {}, sort_keys=True, separators=(",", ":")),
            control=bool(facts.get("control")) or facts["method"] in (BASELINE, CONTROL),
            budget=str(facts["budget"]),
            budget_kind=str(facts.get("budget_kind") or ""),
            task=str(facts.get("task") or ""),
            seed=facts["seed"],
            status=facts["status"],
            reason=lines[0] if lines else "",
            higher_is_better=facts.get("higher_is_better") is not False,
            metrics=tuple(map(Metric.read, facts["metrics"])),
            hardware=str(provenance.get("hardware") or ""),
            dtype=str(provenance.get("dtype") or ""),
            commit=str(provenance.get("commit") or "") + ("+dirty" if provenance.get("dirty") else ""),
        )

    @property
    def ok(self) -> bool:
        return self.status == "ok"

    def metric(self, name: str) -> Metric | None:
        """The metric of that name, None where the cell has none or its value is missing."""
        return next((m for m in self.metrics if m.name == name and m.value is not None), None)

    @cached_property
    def scores(self) -> pd.Series[float]:
        """The primary score of every sample by sample_id; raises ReportError where the file is damaged."""
        try:
            frame = pd.read_parquet(self.folder / "samples.parquet", columns=["sample_id", "score"])
        except FileNotFoundError:
            raise ReportError(f"cell {self.id} is damaged: samples.parquet is missing") from None
        except Exception as error:  # pyarrow has many types for a file that is no parquet
            raise ReportError(f"cell {self.id} is damaged: samples.parquet cannot be read ({error})") from None
        twice = frame.loc[frame["sample_id"].duplicated(), "sample_id"]
        if len(twice):
            raise ReportError(f"cell {self.id} is damaged: sample {twice.iloc[0]!r} stands in samples.parquet twice")
        return frame.set_index("sample_id")["score"].astype(float).sort_index()


def read(study: Path) -> tuple[list[Cell], list[str]]:
    """All cells of a study sorted by id, and a warning for every one that could not be read.

    Raises ReportError where the folder is no study, or has no readable cell at all.
    """
    folder = study / "cells"
    if not folder.is_dir():
        raise ReportError(f"{study} is no study: it has no folder 'cells'; run a sweep into it first")
    cells: list[Cell] = []
    warnings: list[str] = []
    for path in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith((".", "_"))):
        try:
            cells.append(Cell.read(path))
        except ReportError as error:
            warnings.append(str(error))
    if not cells:
        raise ReportError("; ".join([f"{study} has no finished cell", *warnings]))
    return cells, warnings


def joined(values: Iterable[str]) -> str:
    """Distinct non-empty texts joined into one, in order of first appearance."""
    return "; ".join(dict.fromkeys(value for value in values if value))


def _check(facts: Any, folder: Path) -> None:
    """That a cell is what a sweep wrote: complete, and where it is sealed, unchanged."""
    if not isinstance(facts, dict):
        raise ReportError("cell.json holds no object")
    missing = [key for key in REQUIRED if facts.get(key) is None]
    if missing:
        raise ReportError(f"cell.json lacks {', '.join(missing)}")
    broken = fault(facts, folder)
    if broken:
        raise ReportError(broken)
    if facts["id"] != folder.name:
        raise ReportError(f"cell.json belongs to cell {facts['id']!r}")
    for key, known in (("kind", KINDS), ("status", STATUSES)):
        if facts[key] not in known:
            raise ReportError(f"{key} {facts[key]!r} is unknown; it is one of {', '.join(known)}")
    if not isinstance(facts["seed"], int) or not isinstance(facts["metrics"], list):
        raise ReportError("'seed' must be a whole number and 'metrics' a list")


def _number(metric: str, value: Any) -> float | None:
    if value is None or value != value:  # NaN is how some writers say "missing"
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ReportError(f"metric {metric!r} has {value!r} where a number belongs")
    return value
