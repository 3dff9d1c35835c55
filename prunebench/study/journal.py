"""Journal: samples.jsonl of an unfinished cell, which has each sample before the next is computed.

What was appended is the operating system's: however the process ends, none of it is lost. It is on
the disk itself within SYNC_SECONDS of work, so that a power cut costs no more than that.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from prunebench.study import columns, facts, lines
from prunebench.study.folder import StoreError, StudyFolder, translated
from prunebench.study.lines import Chain
from prunebench.study.tables import Row

FILE = "samples.jsonl"

SYNC_SECONDS = 5.0
"""Seconds of work after which all journals of a study are brought to the disk, which takes some ms
each.
"""

State = tuple[int, int, int]
"""Device, inode and size of a file: what changes where another program touches it."""


class Journal:
    """The journal of one cell; `rows` holds its samples by sample_id.

    With a `chain`, the file is there, whole, and ends with the last line of the chain; without one
    it is written with the first call of `append`.
    """

    def __init__(
        self,
        study: StudyFolder,
        path: Path,
        cell: str,
        fingerprint: str,
        rows: dict[str, Row] | None = None,
        chain: Chain | None = None,
    ) -> None:
        self.path = path
        self.rows = rows if rows is not None else {}
        self._study = study
        self._head = lines.head(cell, fingerprint)
        self._chain = chain
        self._state = _state(path) if chain is not None else None

    def append(self, rows: Sequence[Row]) -> None:
        """Add samples; raises StoreError for a row that could not be read again.

        On return no end of this process can lose them. A journal that was deleted or changed
        meanwhile is written anew, whole.
        """
        # checked before it is written: a line that cannot be read again would end the journal
        storable = [facts.plain(row) for row in rows]
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
            raise translated(error, self.path) from None
        # behind the writing: `_write` takes the rows that came before from here
        self.rows.update((row["sample_id"], row) for row in storable)

    def _add(self, rows: Sequence[Row]) -> None:
        doubtful = self._state is None or self.path in self._study.doubtful
        if self._chain is None or doubtful or self._state != _state(self.path):
            if not doubtful:
                self._study.notes.append(
                    f"{self.path} was deleted or changed by another program; it was written anew"
                )
            self._write([*self.rows.values(), *rows])
            return
        text = "".join(self._chain.line(row) for row in rows)
        self._state = None  # until the lines are there, whole, the next call writes anew
        # not created where it has gone since: a journal must begin with its head
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW)
        with os.fdopen(handle, "wb") as file:
            file.write(text.encode())
        self._study.unsynced.add(self.path)
        self._study.sync(SYNC_SECONDS)
        self._state = _state(self.path)

    def _write(self, rows: Sequence[Row]) -> None:
        """The whole file, from its head."""
        self._study.make(self.path.parent)
        self._chain = Chain()
        text = "".join(self._chain.line(content) for content in [self._head, *rows])
        self._study.put(self.path, text.encode())
        self._study.doubtful.discard(self.path)
        self._state = _state(self.path)


def resume(
    study: StudyFolder, path: Path, cell: str, fingerprint: str, samples: Mapping[str, int] | None
) -> Journal:
    """The journal that is there, written anew where it is torn or damaged, and without rows of
    another configuration.
    """
    try:
        replay = lines.replay(path, cell, samples)
    except OSError as error:
        replay = lines.Replay(damage=f"it cannot be read: {error.strerror}")
    rows = list(replay.rows.values())
    # ahead of damage: rows of another configuration are of no use, whole or not
    if replay.head is not None and replay.head["fingerprint"] != fingerprint:
        rows = []
        study.remove(path)
    elif replay.damage:
        study.set_aside(
            path,
            f"{path.name} of cell {cell} is damaged ({replay.damage})",
            f"{len(rows)} samples before that are kept",
        )
    elif not replay.torn:
        # a torn last line is no damage, for a killed process leaves one, but is written anew
        return Journal(study, path, cell, fingerprint, replay.rows, replay.chain)
    journal = Journal(study, path, cell, fingerprint)
    journal.append(rows)
    return journal


def _state(path: Path) -> State | None:
    """What tells whether another program touched the file; None where it is gone."""
    try:
        place = os.lstat(path)
    except FileNotFoundError:
        return None
    return place.st_dev, place.st_ino, place.st_size
