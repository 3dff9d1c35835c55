"""Cells: the folders of a study, read; a damaged one is named and the others are kept."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from prunebench.border import files
from prunebench.border.text import one_line
from prunebench.study import facts, readers, samples, schema, statistics, tables
from prunebench.study.facts import Damaged, short
from prunebench.study.record import BASELINE, CONTROL, TABLES, CellRecord
from prunebench.study.samples import Adoption, Labels, Pool, Samples, Vector
from prunebench.study.schema import Unreadable
from prunebench.study.seal import fault

SAMPLES = TABLES["quality"]

SWEPT = 100
"""Cells after which what was read of their files is let go."""

REASON = 1000
"""Characters of a reason that tables keep; cell.json has all of it."""


class ReportError(ValueError):
    """A study, or a part of one, that cannot be folded."""


class OtherSchema(ReportError):
    """A study with a cell of a version that is not read."""


@dataclass(frozen=True, kw_only=True)
class StoredCell(CellRecord):
    """The record of a finished cell with the folder that it lies in."""

    folder: Path
    of_samples: Samples | None = field(default=None, repr=False, compare=False)
    """What its samples.parquet says; a cell of cost has none."""

    @cached_property
    def settings_line(self) -> str:
        """The settings as one line of JSON."""
        return sys.intern(json.dumps(self.settings, sort_keys=True, separators=(",", ":")))

    @property
    def line(self) -> tuple[str, str, str, str, str, str]:
        """What cells share that differ in their seed, or in what was measured, alone: model,
        method, settings, kind of budget, budget and task.
        """
        about = self.model, self.method, self.settings_line
        return (*about, self.budget_kind, self.budget, self.task)

    @property
    def is_control(self) -> bool:
        """Whether it stands in the study only to be compared with; old cells do not say."""
        return bool(self.control) or self.method in (BASELINE, CONTROL)

    @property
    def first_reason(self) -> str:
        """The first line of the reason, for tables."""
        lines = self.reason.strip().splitlines()
        return one_line(lines[0], REASON) if lines else ""

    @property
    def more_is_better(self) -> bool:
        """The direction of the primary metric; old cells do not say."""
        return self.higher_is_better is not False

    @property
    def hardware(self) -> str:
        """The GPU or CPU that it ran on."""
        return self.origin.hardware

    @property
    def dtype(self) -> str:
        """The type of the model's weights."""
        return self.origin.dtype

    @property
    def commit(self) -> str:
        """The code's commit; it ends in "+dirty" where the code had changes that are in none."""
        return self.origin.commit + ("+dirty" if self.origin.dirty else "")

    @property
    def samples_read(self) -> Samples:
        """What it says of its samples; raises ReportError where it has no table of them."""
        if self.of_samples is None:
            raise _damaged(self.id, f"{SAMPLES} is missing")
        return self.of_samples

    @property
    def groups(self) -> pd.Series[str] | None:
        """The group of every sample by sample_id, None where the task scores each alone; raises
        ReportError.
        """
        # those without an answer have none: where nobody else has one either, there are none
        names = self.labels["group"].dropna()
        return names if len(names) else None

    @cached_property
    def cluster_labels(self) -> Labels | None:
        """What every sample is drawn with: its group, or else its image; None where each has its
        own. Raises ReportError.
        """
        labels = self.samples_read.labels
        groups, images = labels.get("group"), labels.get("image")
        if groups is not None and groups.present.any():
            return groups
        return images if images is not None and images.shared else None

    @property
    def labels(self) -> pd.DataFrame:
        """What texts say of every sample by sample_id; raises ReportError."""
        own = self.samples_read
        texts = {name: labels.texts for name, labels in own.labels.items()}
        frame = pd.DataFrame(texts, index=own.ids, dtype=object)
        return frame.reindex(columns=list(samples.LABELS))

    def texts(self, names: Sequence[str]) -> pd.DataFrame:
        """Texts of every sample by sample_id, None where it has none; raises ReportError."""
        try:
            texts = tables.read_texts(self.folder / SAMPLES, names)
        except Damaged as error:
            raise _damaged(self.id, str(error)) from None
        frame = pd.DataFrame(texts, dtype=object).set_index("sample_id")
        return frame.reindex(columns=list(names))

    @property
    def kinds(self) -> pd.Series[str] | None:
        """The kind of question of every sample by sample_id, None where the data do not say; raises
        ReportError.
        """
        kinds = self.labels["question_type"].dropna()
        return kinds if len(kinds) else None

    @property
    def scores(self) -> pd.Series[float]:
        """The primary score of every sample by sample_id, NaN where it was not answered; raises
        ReportError.
        """
        own = self.samples_read
        return pd.Series(own.numbers["score"], index=own.ids, name="score")

    @cached_property
    def mean_scores(self) -> Vector | None:
        """The same, None where the primary metric is no mean of them; raises ReportError."""
        metric = self.number("score")
        scores = self.samples_read.vector("score")
        answered = scores.values[scores.answered]
        if metric is None or not len(answered):
            return None
        # a task may aggregate otherwise than by the mean; then samples say nothing of the metric
        mean, value = float(answered.mean()), metric.value or 0.0
        close = abs(mean - value) <= 1e-8 + 1e-5 * abs(value)
        return scores if close or statistics.same(mean, value) else None


def read_record(folder: Path) -> CellRecord | None:
    """The record of the finished cell in `folder`, None where it has no cell.json.

    Raises Damaged where a file is not what was written: no seal, another seal, a fact that is none,
    a table that cannot be read, or anything but plain files in a plain folder.
    """
    facts_of = _facts(folder, {})
    if facts_of is None:
        return None
    if SAMPLES in facts_of["files"]:
        tables.read_samples(folder / SAMPLES)
    return CellRecord(**facts_of)


def read_cell(folder: Path, pool: Pool | None = None) -> StoredCell:
    """The finished cell in `folder`, which keeps in the pool what others have, too; raises
    ReportError that names the folder and says what is wrong with it.
    """
    pool = Pool() if pool is None else pool
    try:
        tables_of: dict[str, bytes] = {}
        facts_of = _facts(folder, tables_of)
        of_samples = None
        if facts_of is not None and SAMPLES in facts_of["files"]:
            of_samples = pool.samples(folder / SAMPLES, tables_of[SAMPLES])
    except Unreadable as error:
        raise OtherSchema(one_line(f"cell {_shortened(folder.name)}: {error}", 400)) from None
    except Damaged as error:
        raise _damaged(folder.name, str(error)) from None
    except OSError as error:
        raise _damaged(folder.name, f"it cannot be read: {error.strerror}") from None
    if facts_of is None:
        raise ReportError(
            f"cell {_shortened(folder.name)} has no cell.json: it was not finished; sweep again"
        )
    for name in ("provenance", "settings"):
        facts_of[name] = pool.shared(facts_of[name])
    return StoredCell(folder=folder, of_samples=of_samples, **facts_of)


def _facts(folder: Path, tables_of: dict[str, bytes]) -> dict[str, Any] | None:
    """The facts of the record, under its seal; `tables_of` is given the files that it names."""
    if folder.is_symlink() or not folder.is_dir():
        raise Damaged("it is no folder")
    try:
        content = facts.from_json(files.read(folder / "cell.json"), "cell.json")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Damaged(f"cell.json cannot be read: {error.strerror}") from None
    # ahead of the seal, which may be another one there
    schema.check(content)
    try:
        broken = fault(content, folder, tables_of)
    except (ValueError, RecursionError) as error:  # a lone surrogate, nesting without end
        raise Damaged(f"cell.json cannot be read: {type(error).__name__}") from None
    if broken:
        raise Damaged(broken)
    facts_of = CellRecord.facts(content)
    if facts_of["id"] != folder.name:
        raise Damaged(f"cell.json belongs to cell {short(facts_of['id'])}")
    return facts_of


def read(study: Path) -> tuple[list[StoredCell], list[str]]:
    """All cells of a study sorted by id, and a warning for every one that could not be read.

    Raises ReportError where the folder is no study, or has no readable cell at all; OtherSchema
    where a cell is of a version that is not read.
    """
    stored, warnings = told_apart(_each(folders(study)))
    if not stored:
        raise without_cells(study, warnings)
    return stored, warnings


def told_apart(
    stored: Iterable[StoredCell | ReportError],
) -> tuple[list[StoredCell], list[str]]:
    """The cells of those that could be read, and what is to be said of others and of those that
    answer what another one does; raises OtherSchema.
    """
    first: dict[tuple[Any, ...], StoredCell] = {}
    warnings: list[str] = []
    for cell in stored:
        if isinstance(cell, OtherSchema):
            # a part of a study would pass for all of it
            raise cell
        if isinstance(cell, ReportError):
            warnings.append(str(cell))
            continue
        twin = first.setdefault(cell.question, cell)
        if twin is not cell:
            warnings.append(
                f"cell {_shortened(cell.id)} answers what {_shortened(twin.id)} does, "
                "and is left out; delete one of them"
            )
    return list(first.values()), warnings


def without_cells(study: Path, warnings: Sequence[str]) -> ReportError:
    """That a study has nothing to fold, and why."""
    nothing = f"{_shortened(study)} has no finished cell"
    return ReportError(one_line("; ".join([nothing, *warnings])))


def read_all(paths: Sequence[Path]) -> list[StoredCell | ReportError]:
    """The cells in these folders, with a pool of their own; in place of a cell that cannot be read
    stands what is wrong with it.
    """
    return list(read_each(paths))


def read_each(paths: Sequence[Path]) -> Iterator[StoredCell | ReportError]:
    """The same, one by one."""
    pool = Pool()
    for number, path in enumerate(paths):
        yield read_or_fault(path, pool)
        if number % SWEPT == 0:
            # readers look for no garbage, but a file that was read hangs in a circle of references
            gc.collect(0)


def read_or_fault(folder: Path, pool: Pool | None = None) -> StoredCell | ReportError:
    """The cell, or else the ReportError that says what is wrong with it."""
    try:
        return read_cell(folder, pool)
    except ReportError as error:
        return error


def serve() -> None:
    """Be a reader of cells."""
    readers.main(lambda paths, _: read_all(paths))


def _each(paths: Sequence[Path]) -> Iterator[StoredCell | ReportError]:
    """The cells in these folders, in their order, with one pool for all of them."""
    pool = Pool()
    number = readers.count(paths)
    if number == 1:
        for path in paths:
            yield read_or_fault(path, pool)
        return
    try:
        for part in readers.read(paths, number):
            yield from _pooled(part, pool)
    except OSError as error:
        raise ReportError(f"{len(paths)} cells cannot be read: {error}") from None


def _pooled(
    part: Sequence[StoredCell | ReportError], pool: Pool
) -> Iterator[StoredCell | ReportError]:
    """The same with what cells have in common taken from the pool."""
    adoption = Adoption(pool)
    for cell in part:
        if isinstance(cell, ReportError):
            yield cell
            continue
        own = cell.of_samples
        of_samples = None if own is None else adoption.samples(own)
        yield replace(cell, of_samples=of_samples, provenance=pool.shared(cell.provenance))


def joined(values: Iterable[str]) -> str:
    """Distinct non-empty texts joined into one, in order of first appearance."""
    return "; ".join(dict.fromkeys(value for value in values if value))


def folders(study: Path) -> list[Path]:
    """Where the cells of a study lie, in order; raises ReportError where it is none."""
    parent = study / "cells"
    paths = []
    try:
        plain = parent.is_dir() and not parent.is_symlink()
        for path in parent.iterdir() if plain else ():
            if not path.name.startswith((".", "_")):
                paths.append(path)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        detail = getattr(error, "strerror", None) or error
        raise ReportError(f"{_shortened(study)} cannot be read: {detail}") from None
    if not plain:
        raise ReportError(
            f"{_shortened(study)} is no study: it has no folder 'cells'; run a sweep into it first"
        )
    return sorted(paths)


def _damaged(cell: str, detail: str) -> ReportError:
    text = f"cell {_shortened(cell)} is damaged: {detail}; delete its folder and sweep again"
    return ReportError(one_line(text))


def _shortened(name: str | Path) -> str:
    return one_line(str(name), 100)
