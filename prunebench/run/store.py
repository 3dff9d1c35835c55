"""Store: a study's folder. A cell is finished whole or not at all; until then a journal holds every
sample that is done.

The order of writes makes that true at any point where the process may die: samples are appended to
the journal one by one; then samples.parquet appears by a rename, then cell.json, which seals the
parquet's hash and its own; then the journal goes.

Nothing that an earlier run left is taken on trust. What does not bear its seal or its checksums is
set aside under damaged/ with a note, and asked again; of a journal the lines before the first
damaged one are kept. Links, pipes and devices count as damage, so that nothing leads out of the
folder.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from hashlib import sha256
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from prunebench.border import files
from prunebench.border.text import one_line
from prunebench.run.cell import Cell
from prunebench.run.grid import Grid, GridError, dump, short_path, stored_differences
from prunebench.study import columns, lines, record
from prunebench.study.lines import Chain, Row
from prunebench.study.record import Damaged
from prunebench.study.seal import seal

__all__ = [
    "FINAL",
    "Damaged",
    "Journal",
    "Row",
    "StoreError",
    "Study",
    "Vanished",
    "open_study",
    "read_cell",
    "write",
]

FINAL = ("ok", "unsupported", "infeasible")
"""Statuses that a second run would only repeat; "failed" and "oom" are tried again."""

NAME = 200
"""Bytes of a name that leave room for ".damaged-1" behind it."""

P = ParamSpec("P")
T = TypeVar("T")

read_cell = record.read_facts


class StoreError(ValueError):
    """A study folder that cannot be used."""


class Vanished(StoreError):
    """A study folder that was deleted or moved while the sweep ran; the command line ends with
    `code`.
    """

    code = 1


def _named(
    method: Callable[Concatenate[Study, P], T],
) -> Callable[Concatenate[Study, P], T]:
    """What the file system says against a study becomes one line; a disk that takes no more stays
    an OSError.
    """

    @wraps(method)
    def named(study: Study, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(study, *args, **kwargs)
        except OSError as error:
            study.still()
            raise _told(error, study.folder) from None

    return named


@dataclass
class Study:
    """An open study: nobody else writes to it. `notes` says what was set aside.

    `identity` (device, inode) is that of the folder that was opened: another one at the same place
    is not written to.
    """

    folder: Path
    notes: list[str] = field(default_factory=list)
    identity: tuple[int, int] | None = None

    def cell_folder(self, cell: Cell) -> Path:
        """Where a cell lives; raises StoreError for an id that is no plain name, for it would lead
        out of the study.
        """
        if Path(cell.id).name != cell.id or cell.id in ("", ".", ".."):
            raise StoreError(
                f"cell {one_line(repr(cell.id), 80)} has no name for a folder; rename its model, method or task"
            )
        return self.folder / "cells" / cell.id

    def still(self) -> None:
        """Raises Vanished where the folder is no longer the one that was opened."""
        try:
            place = os.stat(self.folder)
        except OSError:
            place = None
        if place is None or self.identity not in (None, (place.st_dev, place.st_ino)):
            raise Vanished(
                f"study folder {_path(self.folder)} was deleted or moved while the sweep ran; the same command starts it again"
            )

    def begin(self, grid: Grid) -> None:
        """Write the question, or see that it is the one the folder already asks; raises StoreError
        where it is not.

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
                raise StoreError(
                    f"{place} has cells but no grid.yaml; choose another folder with out="
                )
            write(path, dump(grid).encode())

    @_named
    def result(self, cell: Cell, fingerprint: str) -> dict[str, Any] | None:
        """What cell.json says of a finished cell of this configuration; None where there is work to
        do.

        A damaged cell is set aside with a note, and is work to do.
        """
        folder = self.cell_folder(cell)
        if not os.path.lexists(folder):
            return None
        try:
            facts = read_cell(folder)
        except Damaged as error:
            self._set_aside(folder, f"cell {cell.id} is damaged ({error})")
            return None
        if facts is None or facts["fingerprint"] != fingerprint or facts["status"] not in FINAL:
            return None
        self._remove(folder / "samples.jsonl")  # where the process died before it could
        return facts

    @_named
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
        path = folder / "samples.jsonl"
        if os.path.lexists(path):
            journal = self._replayed(path, cell, fingerprint, samples)
        else:
            journal = Journal(self, path, cell.id, fingerprint)
            journal.append(self._good_rows(folder, cell, fingerprint, samples))
        self._remove(folder / "cell.json")
        return journal

    @_named
    def finish(
        self, cell: Cell, facts: Mapping[str, Any], tables: Mapping[str, Sequence[Row]]
    ) -> dict[str, Any]:
        """Write a cell's tables ("samples", "pairs") and facts; the journal is no longer needed
        behind that.

        Returns the facts as they were written: a cell whose numbers are none, and so could not be
        read again, has failed.
        """
        folder = self.cell_folder(cell)
        self.still()
        self.make(folder)
        files.tidy(folder)
        hashes, faults = {}, []
        for name, rows in tables.items():
            storable = [record.plain(row) for row in rows]
            faults += [
                f"{name}: {broken}" for row in storable if (broken := columns.fault(name, row))
            ]
            data = _parquet(name, [row for row in storable if not columns.fault(name, row)])
            self.put(folder / f"{name}.parquet", data)
            hashes[f"{name}.parquet"] = sha256(data).hexdigest()
        sealed = _sound({**record.plain(facts), "files": hashes}, faults)
        self.put(
            folder / "cell.json",
            record.to_json({**sealed, "seal": seal(sealed)}, indent=1).encode(),
        )
        self._remove(folder / "samples.jsonl")
        return sealed

    def put(self, path: Path, data: bytes) -> None:
        """Write a file of a cell; what lies there and is no plain file is set aside. Raises
        OSError.
        """
        if os.path.lexists(path) and (path.is_symlink() or not path.is_file()):
            self._set_aside(path, f"{path.name} of cell {path.parent.name} is no plain file")
        files.write(path, data)

    def _replayed(
        self, path: Path, cell: Cell, fingerprint: str, samples: Mapping[str, int] | None
    ) -> Journal:
        """The journal that is there, written anew where it is torn or damaged, and without rows of
        another configuration.
        """
        try:
            replay = lines.replay(path, cell.id, samples)
        except OSError as error:
            replay = lines.Replay(damage=f"it cannot be read: {error.strerror}")
        rows = list(replay.rows.values())
        if replay.head is not None and replay.head["fingerprint"] != fingerprint:
            rows = []
            self._remove(path)
        elif replay.damage:
            self._set_aside(
                path,
                f"{path.name} of cell {cell.id} is damaged ({replay.damage})",
                f"{len(rows)} samples before that are kept",
            )
        elif not replay.torn:
            return Journal(self, path, cell.id, fingerprint, replay.rows, replay.chain)
        journal = Journal(self, path, cell.id, fingerprint)
        journal.append(rows)
        return journal

    def _good_rows(
        self, folder: Path, cell: Cell, fingerprint: str, samples: Mapping[str, int] | None
    ) -> list[Row]:
        """The samples that a failed cell of the same configuration did answer."""
        from pyarrow import parquet

        try:
            facts = read_cell(folder)
            if (
                facts is None
                or facts["fingerprint"] != fingerprint
                or "samples.parquet" not in facts["files"]
            ):
                return []
            with files.opened(folder / "samples.parquet") as file:
                rows: list[Row] = parquet.read_table(file).to_pylist()
            for row in rows:
                broken = lines.row_fault(row, samples)
                if broken:
                    raise Damaged(f"samples.parquet: {broken}")
        except Damaged as error:
            self._set_aside(folder, f"cell {cell.id} is damaged ({error})")
            self.make(folder)
            return []
        return [row for row in rows if row["error"] is None]

    def make(self, folder: Path) -> None:
        """A cell's folder, new where there is none or where something else lies there."""
        self.still()
        _inspect(self.folder)
        if os.path.lexists(folder) and (folder.is_symlink() or not folder.is_dir()):
            self._set_aside(folder, f"cell {folder.name} is damaged (it is no folder)")
        folder.mkdir(parents=True, exist_ok=True)

    def _remove(self, path: Path) -> None:
        if path.is_dir() and not path.is_symlink():
            self._set_aside(path, f"{path.name} of cell {path.parent.name} is no plain file")
        path.unlink(missing_ok=True)

    def _set_aside(self, path: Path, reason: str, rest: str = "") -> None:
        """Move a cell's folder, or one of its files, to damaged/, and note it."""
        place = self.folder / "damaged"
        _inspect(self.folder)
        place.mkdir(exist_ok=True)
        names = [path.name] if path.parent.name == "cells" else [path.parent.name, path.name]
        stem = os.fsdecode(os.fsencode(".".join(names))[:NAME])
        number = 1
        while os.path.lexists(target := place / f"{stem}.damaged-{number}"):
            number += 1
        os.replace(path, target)
        again = f"{rest}, the others run again" if rest else "it runs again"
        self.notes.append(one_line(f"{reason}; set aside as damaged/{target.name}: {again}", 400))


class Journal:
    """samples.jsonl of an unfinished cell: each sample is on the disk before the next is computed;
    `rows` by sample_id.
    """

    def __init__(
        self,
        study: Study,
        path: Path,
        cell: str,
        fingerprint: str,
        rows: dict[str, Row] | None = None,
        chain: Chain | None = None,
    ) -> None:
        self.path = path
        self.rows = rows if rows is not None else {}
        self._study, self._head = study, lines.head(cell, fingerprint)
        self._chain = chain
        self._state = _state(path) if chain is not None else None

    def append(self, rows: Sequence[Row]) -> None:
        """Add samples, durable on return; raises StoreError for a row that could not be read again.

        A journal that was deleted or changed meanwhile is written anew, whole.
        """
        storable = [record.plain(row) for row in rows]
        for row in storable:
            broken = columns.fault("samples", row)
            if broken:
                raise StoreError(
                    f"a sample of cell {self._head['cell']} cannot be stored: {broken}"
                )
        self._study.still()
        try:
            self._add(storable)
        except OSError as error:
            self._study.still()
            raise _told(error, self.path) from None
        self.rows.update((row["sample_id"], row) for row in storable)

    def _add(self, rows: Sequence[Row]) -> None:
        if self._chain is None or self._state is None or self._state != _state(self.path):
            if self._state is not None:
                self._study.notes.append(
                    f"{self.path} was deleted or changed by another program; it was written anew"
                )
            self._write([*self.rows.values(), *rows])
            return
        text = "".join(self._chain.line(row) for row in rows)
        self._state = None  # until the lines are whole on the disk, the next call writes anew
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW)
        with os.fdopen(handle, "wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(handle)
        self._state = _state(self.path)

    def _write(self, rows: Sequence[Row]) -> None:
        self._study.make(self.path.parent)
        self._chain = Chain()
        text = "".join(self._chain.line(content) for content in [self._head, *rows])
        self._study.put(self.path, text.encode())
        self._state = _state(self.path)


@contextmanager
def open_study(folder: Path) -> Iterator[Study]:
    """The study in `folder`, created where it is new, locked while the block runs; raises
    StoreError in one line.
    """
    lock, new = _locked(folder)
    try:
        place = os.fstat(lock)
        _inspect(folder)
        files.tidy(folder)
        yield Study(folder, identity=(place.st_dev, place.st_ino))
    finally:
        _leave(new)  # under the lock, so that nobody has begun in it
        os.close(lock)


def write(path: Path, data: bytes) -> None:
    """Put `data` at `path`, whole or not at all, also when the machine stops; raises StoreError
    where a link is in the way.
    """
    try:
        files.write(path, data)
    except OSError as error:
        raise _told(error, path) from None


def _locked(folder: Path) -> tuple[int, list[Path]]:
    """The folder, open and locked, and which folders on the way are new; raises StoreError."""
    for _ in range(
        100
    ):  # another sweep that came to nothing may remove the folder between two calls
        try:
            new = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
            lock = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            detail = getattr(error, "strerror", None) or error
            raise StoreError(
                f"study folder {_path(folder)} cannot be written: {detail}; choose another with out="
            ) from None
        try:
            fcntl.flock(
                lock, fcntl.LOCK_EX | fcntl.LOCK_NB
            )  # on the folder itself: goes with the process, leaves no file
            if os.path.samestat(os.fstat(lock), os.stat(folder)):
                return lock, new
        except BlockingIOError:
            os.close(lock)
            raise StoreError(
                f"another sweep is writing to {_path(folder)}; wait for it, or choose another folder with out="
            ) from None
        except FileNotFoundError:
            pass
        os.close(lock)
    raise StoreError(
        f"study folder {_path(folder)} cannot be written: it cannot be made there; choose another with out="
    )


def _inspect(folder: Path) -> None:
    """That what a study is made of is inside it; raises StoreError for a link, or for another kind
    of file.
    """
    for name in ("cells", "damaged", "grid.yaml"):
        path = folder / name
        plain = path.is_file() if path.suffix else path.is_dir()
        if os.path.lexists(path) and (path.is_symlink() or not plain):
            word = "file" if path.suffix else "folder"
            raise StoreError(
                f"{_path(path)} is no plain {word}; remove it, or choose another folder with out="
            )


def _leave(new: Sequence[Path]) -> None:
    """Where nothing came of a study, nothing stays."""
    for path in new:
        try:
            path.rmdir()
        except OSError:
            return


def _told(error: OSError, path: Path) -> OSError | StoreError:
    """What the file system said: as it is where the disk takes no more, else in one line that names
    the path.
    """
    place = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else path
    if error.errno in files.STORAGE:
        return OSError(error.errno, error.strerror, _path(place))
    if error.strerror is None:  # it says all by itself
        return StoreError(one_line(str(error)))
    return StoreError(
        f"{_path(place)} cannot be used: {error.strerror}; repair it, or choose another folder with out="
    )


def _sound(facts: dict[str, Any], faults: list[str]) -> dict[str, Any]:
    """The facts, or those of a failed cell where they could not be read again; raises StoreError
    where not even those can.
    """
    try:
        record.check(facts)
    except Damaged as error:
        faults = [*faults, str(error)]
    if not faults:
        return facts
    said = facts.get("reason") if facts.get("status") != "ok" else ""
    reason = said or f"what was measured cannot be stored: {faults[0]}"
    failed = {**facts, "status": "failed", "reason": reason, "metrics": []}
    try:
        record.check(failed)
    except Damaged as error:
        raise StoreError(
            f"cell {one_line(str(facts.get('id')), 80)} cannot be stored: {error}"
        ) from None
    return failed


def _parquet(name: str, rows: Sequence[Row]) -> bytes:
    import pyarrow
    from pyarrow import parquet

    buffer = pyarrow.BufferOutputStream()
    parquet.write_table(
        pyarrow.Table.from_pylist(list(rows), schema=columns.schema(name, rows)), buffer
    )
    return bytes(buffer.getvalue().to_pybytes())


def _state(path: Path) -> tuple[int, int, int] | None:
    """What changes where another program touches a file; None where it is gone."""
    try:
        place = os.lstat(path)
    except FileNotFoundError:
        return None
    return place.st_dev, place.st_ino, place.st_size


def _path(path: Path) -> str:
    """A path for a message, of which enough must be left to say what to do."""
    return one_line(str(path), 120)
