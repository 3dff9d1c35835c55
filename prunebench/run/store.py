"""Store: a study's folder. A cell is finished whole or not at all; until then a journal holds every sample that is done.

The order of writes makes that true at any point where the process may die: samples are appended to the journal one by one;
then samples.parquet appears by a rename, then cell.json, which seals the parquet's hash and its own; then the journal goes.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from prunebench.run.cell import Cell
from prunebench.run.grid import Grid, GridError, dump, short_path, stored_differences
from prunebench.seal import fault, seal
from prunebench.text import one_line

FINAL = ("ok", "unsupported", "infeasible")
"""Statuses that a second run would only repeat; "failed" and "oom" are tried again."""

Row = dict[str, Any]


class StoreError(ValueError):
    """A study folder that cannot be used."""


class Damaged(ValueError):
    """A cell whose files are not what the program wrote."""


@dataclass
class Study:
    """An open study: nobody else writes to it. `notes` says what was set aside."""

    folder: Path
    notes: list[str] = field(default_factory=list)

    def cell_folder(self, cell: Cell) -> Path:
        """Where a cell lives."""
        return self.folder / "cells" / cell.id

    def begin(self, grid: Grid) -> None:
        """Write the question, or see that it is the one the folder already asks; raises StoreError where it is not.

        The question that stands there is data: nothing that it names is imported.
        """
        path, place = self.folder / "grid.yaml", short_path(self.folder)
        if path.exists():
            try:
                changed = stored_differences(path, grid)
            except GridError as error:
                said = f"{short_path(path)} cannot be read ({error}); repair it, or choose another folder with out="
                raise StoreError(one_line(said, tail=100)) from None
            if changed:
                more = f" and {len(changed) - 2} more" if len(changed) > 2 else ""
                said = f"{place} holds another study: {'; '.join(changed[:2])}{more}; choose another folder with out="
                raise StoreError(one_line(said, tail=60))
        else:
            if (self.folder / "cells").is_dir() and any((self.folder / "cells").iterdir()):
                raise StoreError(f"{place} has cells but no grid.yaml; choose another folder with out=")
            write(path, dump(grid).encode())

    def result(self, cell: Cell, fingerprint: str) -> dict[str, Any] | None:
        """What cell.json says of a finished cell of this configuration; None where there is work to do.

        A damaged cell is set aside with a note, and is work to do.
        """
        folder = self.cell_folder(cell)
        if folder.exists() and not folder.is_dir():
            self._set_aside(folder, "it is no folder")
        try:
            facts = read_cell(folder)
        except Damaged as error:
            self._set_aside(folder, str(error))
            return None
        if facts is None or facts["fingerprint"] != fingerprint or facts["status"] not in FINAL:
            return None
        (folder / "samples.jsonl").unlink(missing_ok=True)  # where the process died before it could
        return facts

    def journal(self, cell: Cell, fingerprint: str) -> Journal:
        """The samples of an unfinished cell, those of an earlier run included; a damaged journal is set aside with a note."""
        folder = self.cell_folder(cell)
        try:
            return Journal.open(folder, fingerprint)
        except Damaged as error:
            self._set_aside(folder, str(error))
            return Journal.open(folder, fingerprint)

    def finish(self, cell: Cell, facts: Mapping[str, Any], tables: Mapping[str, Sequence[Row]]) -> None:
        """Write a cell's tables ("samples", "pairs") and facts; the journal is no longer needed behind that."""
        import pyarrow
        from pyarrow import parquet

        from prunebench.run.columns import schema

        folder = self.cell_folder(cell)
        folder.mkdir(parents=True, exist_ok=True)
        hashes = {}
        for name, rows in tables.items():
            path = folder / f"{name}.parquet"
            buffer = pyarrow.BufferOutputStream()
            parquet.write_table(pyarrow.Table.from_pylist(list(rows), schema=schema(name, rows)), buffer)
            data = buffer.getvalue().to_pybytes()
            write(path, data)
            hashes[path.name] = sha256(data).hexdigest()
        sealed = {**facts, "files": hashes}
        write(folder / "cell.json", _json({**sealed, "seal": seal(sealed)}, indent=1).encode())
        (folder / "samples.jsonl").unlink(missing_ok=True)

    def _set_aside(self, folder: Path, reason: str) -> None:
        place = self.folder / "damaged"
        place.mkdir(exist_ok=True)
        number = sum(path.name.startswith(folder.name + ".damaged") for path in place.iterdir()) + 1
        target = place / f"{folder.name}.damaged-{number}"
        os.replace(folder, target)
        self.notes.append(f"cell {folder.name} is damaged ({reason}); it was set aside as {target} and runs again")


class Journal:
    """samples.jsonl: a line for the configuration, then one line a sample, each on the disk before the next is computed."""

    def __init__(self, path: Path, rows: dict[str, Row]) -> None:
        self.path = path
        self.rows = rows

    @classmethod
    def open(cls, folder: Path, fingerprint: str) -> Journal:
        """What is there already, without a torn last line; rows of another configuration are not taken. Raises Damaged."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "samples.jsonl"
        if not path.exists():
            rows = _good_rows(folder, fingerprint)
            lines = [_json({"fingerprint": fingerprint}), *map(_json, rows)]
            write(path, "".join(line + "\n" for line in lines).encode())
            (folder / "cell.json").unlink(missing_ok=True)
            return cls(path, {row["sample_id"]: row for row in rows})
        (folder / "cell.json").unlink(missing_ok=True)
        whole, _, torn = path.read_bytes().rpartition(b"\n")
        if torn:
            os.truncate(path, len(whole) + 1 if whole else 0)
        lines = whole.decode(errors="replace").split("\n")
        try:
            head, *parsed = [json.loads(line) for line in lines]
            found = head["fingerprint"]
            done = {row["sample_id"]: row for row in parsed if row["error"] is None}
        except (ValueError, KeyError, TypeError) as error:
            raise Damaged(f"{path.name}: {error}") from None
        if found != fingerprint:
            path.unlink()
            return cls.open(folder, fingerprint)
        return cls(path, done)

    def append(self, rows: Sequence[Row]) -> None:
        """Add samples, durable on return."""
        with self.path.open("ab") as file:
            file.write("".join(_json(row) + "\n" for row in rows).encode())
            file.flush()
            os.fsync(file.fileno())
        self.rows.update((row["sample_id"], row) for row in rows)


@contextmanager
def open_study(folder: Path) -> Iterator[Study]:
    """The study in `folder`, created where it is new, locked while the block runs; raises StoreError in one line."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        lock = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise StoreError(f"study folder {folder} cannot be written: {error.strerror}; choose another with out=") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # on the folder itself: goes with the process, leaves no file
        yield Study(folder)
    except BlockingIOError:
        raise StoreError(f"another sweep is writing to {folder}; wait for it, or choose another folder with out=") from None
    finally:
        os.close(lock)
        for path in new:  # where nothing came of it, nothing stays
            if any(path.iterdir()):
                break
            path.rmdir()


def read_cell(folder: Path) -> dict[str, Any] | None:
    """The facts of a finished cell, None where there are none; raises Damaged where a file is not what was written."""
    path = folder / "cell.json"
    if not path.exists():
        return None
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        broken = fault(facts, folder) if facts["seal"] else "cell.json has no seal"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"cell.json cannot be read: {type(error).__name__}: {error}") from None
    if broken:
        raise Damaged(broken)
    return dict(facts)


def write(path: Path, data: bytes) -> None:
    """Put `data` at `path`, whole or not at all, also when the machine stops."""
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _good_rows(folder: Path, fingerprint: str) -> list[Row]:
    """The samples that a failed cell of the same configuration did answer; raises Damaged."""
    facts = read_cell(folder)
    if facts is None or facts["fingerprint"] != fingerprint or "samples.parquet" not in facts["files"]:
        return []
    from pyarrow import parquet

    return [row for row in parquet.read_table(folder / "samples.parquet").to_pylist() if row["error"] is None]


def _json(value: Any, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=False, **options)
