"""Store: the cells of a study. One is finished whole or not at all; until then a journal holds
every sample that is done.

The order of writes makes that true at any point where the process may die: samples are appended to
the journal one by one; then samples.parquet appears by a rename, then cell.json, which seals the
parquet's hash and its own; then the journal goes. Where the machine dies, finished cells are there,
and of a journal at most the last seconds of work are not.

Nothing that an earlier run left is taken on trust. What does not bear its seal or its checksums is
set aside, and asked again; of a journal the lines before the first damaged one are kept.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from prunebench.border import files
from prunebench.border.text import one_line
from prunebench.run.cell import Cell
from prunebench.run.grid import Grid, GridError, dump, short_path, stored_differences
from prunebench.study import columns, facts, journal, lines, tables
from prunebench.study.cells import read_record
from prunebench.study.facts import Damaged
from prunebench.study.folder import (
    StoreError,
    StudyFolder,
    Vanished,
    in_one_line,
    locked,
    translated,
)
from prunebench.study.journal import Journal
from prunebench.study.record import CellRecord
from prunebench.study.schema import SCHEMA, Unreadable
from prunebench.study.seal import digest, sealed
from prunebench.study.tables import Row

__all__ = ["FINAL", "Damaged", "Journal", "Row", "StoreError", "Study", "Vanished", "open_study"]

FINAL = ("ok", "unsupported", "infeasible")
"""Statuses that a second run would only repeat; "failed" and "oom" are tried again."""


class Study(StudyFolder):
    """An open study: its question, and the cells that answer it."""

    def cell_folder(self, cell: Cell) -> Path:
        """Where a cell lives; raises StoreError for an id that is no plain name, for it would lead
        out of the study.
        """
        if Path(cell.id).name != cell.id or cell.id in ("", ".", ".."):
            raise StoreError(
                f"cell {one_line(repr(cell.id), 80)} has no name for a folder; "
                "rename its model, method or task"
            )
        return self.folder / "cells" / cell.id

    def check(self, grid: Grid) -> None:
        """See that the folder asks nothing yet, or the same question; raises StoreError where it
        asks another.

        The question that stands there is data: nothing that it names is imported.
        """
        path = self.folder / "grid.yaml"
        if path.exists():
            self._compare(path, grid)
            return
        cells = self.folder / "cells"
        if cells.is_dir() and any(cells.iterdir()):
            place = short_path(self.folder)
            raise StoreError(f"{place} has cells but no grid.yaml; choose another folder with out=")

    def begin(self, grid: Grid) -> None:
        """Write the question where the folder asks none yet; raises StoreError where it asks
        another.
        """
        self.check(grid)
        path = self.folder / "grid.yaml"
        if path.exists():
            return
        try:
            files.write(path, dump(grid).encode())
        except OSError as error:
            raise translated(error, path) from None

    @in_one_line
    def result(self, cell: Cell, fingerprint: str) -> CellRecord | None:
        """The record of a finished cell of this configuration; None where there is work to do.

        A damaged cell is set aside with a note, and is work to do.
        """
        folder = self.cell_folder(cell)
        if not os.path.lexists(folder):
            return None
        try:
            record = read_record(folder)
        except Unreadable as error:
            # not damaged: nothing of another version's is set aside
            text = f"cell {one_line(cell.id, 100)}: {error}, or choose another folder with out="
            raise StoreError(one_line(text, 400)) from None
        except Damaged as error:
            self.set_aside(folder, f"cell {cell.id} is damaged ({error})")
            return None
        if record is None or record.fingerprint != fingerprint or record.status not in FINAL:
            return None
        self.remove(folder / journal.FILE)  # where the process died before it could
        return record

    @in_one_line
    def journal(
        self, cell: Cell, fingerprint: str, samples: Mapping[str, int] | None = None
    ) -> Journal:
        """The samples of an unfinished cell, those of an earlier run included; what is damaged is
        set aside with a note.

        `samples` are the doc_ids of the task's samples, by sample_id: rows of any other are not
        taken.
        """
        folder = self.cell_folder(cell)
        self.make(folder)
        files.tidy(folder)
        path = folder / journal.FILE
        if os.path.lexists(path):
            opened = journal.resume(self, path, cell.id, fingerprint, samples)
        else:
            # the rows of a failed cell are on the disk again before its cell.json goes
            opened = Journal(self, path, cell.id, fingerprint)
            opened.append(self._answered(folder, cell, fingerprint, samples))
        self.remove(folder / "cell.json")
        return opened

    @in_one_line
    def finish(
        self,
        cell: Cell,
        record: CellRecord,
        rows: Mapping[str, Sequence[Row]],
        kept: Mapping[str, bytes] | None = None,
    ) -> CellRecord:
        """Write a cell's tables ("samples", "pairs"), the files in `kept` by their names, and its
        record; behind that the journal is no longer needed.

        Returns the record as it was written: a cell whose numbers are none, and so could not be
        read again, has failed.
        """
        folder = self.cell_folder(cell)
        self.still()
        self.make(folder)
        files.tidy(folder)
        digests: dict[str, str] = {}
        faults: list[str] = []
        for table, table_rows in rows.items():
            storable, broken = _storable(table, table_rows)
            faults += broken
            data = tables.encoded(table, storable)
            self.put(folder / f"{table}.parquet", data)
            digests[f"{table}.parquet"] = digest(data)
        for name, data in (kept or {}).items():
            self.put(folder / name, data)
            digests[name] = digest(data)
        own = facts.plain(replace(record, schema=SCHEMA).content())
        content = _sound({**own, "files": digests}, faults)
        # behind the tables, for it seals them: a cell with cell.json is a whole one
        self.put(folder / "cell.json", facts.to_json(sealed(content), indent=1).encode())
        self.remove(folder / journal.FILE)
        return CellRecord.read(content)

    def _compare(self, path: Path, grid: Grid) -> None:
        """That the folder asks what the grid does."""
        try:
            changed = stored_differences(path, grid)
        except GridError as error:
            text = (
                f"{short_path(path)} cannot be read ({error}); "
                "repair it, or choose another folder with out="
            )
            raise StoreError(one_line(text, tail=100)) from None
        if changed:
            more = f" and {len(changed) - 2} more" if len(changed) > 2 else ""
            text = (
                f"{short_path(self.folder)} holds another study: "
                f"{'; '.join(changed[:2])}{more}; choose another folder with out="
            )
            raise StoreError(one_line(text, tail=60))

    def _answered(
        self, folder: Path, cell: Cell, fingerprint: str, samples: Mapping[str, int] | None
    ) -> list[Row]:
        """The samples that a failed cell of the same configuration did answer."""
        try:
            record = read_record(folder)
            if record is None or record.fingerprint != fingerprint:
                return []
            if "samples.parquet" not in record.files:
                return []
            rows = tables.read_rows(folder / "samples.parquet")
            for row in rows:
                broken = lines.row_fault(row, samples)
                if broken:
                    raise Damaged(f"samples.parquet: {broken}")
        except Damaged as error:
            self.set_aside(folder, f"cell {cell.id} is damaged ({error})")
            self.make(folder)
            return []
        return [row for row in rows if row["error"] is None]


@contextmanager
def open_study(folder: Path) -> Iterator[Study]:
    """The study in `folder`, created where it is new, locked while the block runs; raises
    StoreError in one line.
    """
    with locked(folder) as place:
        study = Study(place.folder, place.notes, place.identity)
        try:
            yield study
        finally:
            with suppress(OSError):  # the block has its own error, or is done without these files
                study.sync()


def _storable(table: str, rows: Sequence[Row]) -> tuple[list[Row], list[str]]:
    """The rows as they can be written and read again, and what is wrong with the others."""
    storable: list[Row] = []
    faults: list[str] = []
    for row in rows:
        plain_row = facts.plain(row)
        broken = columns.fault(table, plain_row)
        if broken:
            faults.append(f"{table}: {broken}")
        else:
            storable.append(plain_row)
    return storable, faults


def _sound(content: dict[str, Any], faults: list[str]) -> dict[str, Any]:
    """What cell.json is to hold, or that of a failed cell where it could not be read again; raises
    StoreError where not even that can.
    """
    try:
        CellRecord.check(content)
    except Damaged as error:
        faults = [*faults, str(error)]
    if not faults:
        return content
    own = content.get("reason") if content.get("status") != "ok" else ""
    reason = own or f"what was measured cannot be stored: {faults[0]}"
    failed = {**content, "status": "failed", "reason": reason, "metrics": []}
    try:
        CellRecord.check(failed)
    except Damaged as error:
        name = one_line(str(content.get("id")), 80)
        raise StoreError(f"cell {name} cannot be stored: {error}") from None
    return failed
