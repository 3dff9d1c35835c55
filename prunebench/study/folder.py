"""Folder: a study's place on the disk, while one process writes to it.

Nothing leads out of it: a link, pipe or device inside counts as damage, and what is damaged is set
aside under damaged/ with a note.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from time import monotonic
from typing import Any, Concatenate, ParamSpec, TypeVar

from prunebench.border import files
from prunebench.border.text import one_line

NAME = 200
"""Bytes of a name that leave room for ".damaged-1" behind it."""

TRIES = 100
"""How often a folder is made anew that another sweep removes between two calls."""

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F", bound="StudyFolder")


class StoreError(ValueError):
    """A study folder that cannot be used."""


class Vanished(StoreError):
    """A study folder that was deleted or moved while the sweep ran; the command line ends with
    `code`.
    """

    code = 1


@dataclass
class StudyFolder:
    """An open study: nobody else writes to it. `notes` says what was set aside.

    `identity` (device, inode) is that of the folder that was opened: another one at the same place
    is not written to.
    """

    folder: Path
    notes: list[str] = field(default_factory=list)
    identity: tuple[int, int] | None = None
    unsynced: set[Path] = field(default_factory=set)
    """Files that were added to and may not be on the disk yet."""
    synced: float = field(default_factory=monotonic)
    """When there was last none of these, on the clock of `monotonic`."""
    doubtful: set[Path] = field(default_factory=set)
    """Those that the disk may not have taken, and that may lack what was added: they are to be
    written anew.
    """

    def sync(self, after: float = 0.0) -> None:
        """Bring what was added to files to the disk, where that was last done `after` seconds ago
        or more; raises OSError that names the file.
        """
        if monotonic() - self.synced < after:
            return
        while self.unsynced:
            path = self.unsynced.pop()
            try:
                handle = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
            except OSError:
                continue  # removed, or changed by somebody else: who adds to it again will see
            try:
                os.fsync(handle)
            except OSError as error:
                # neither are the others trusted to a disk that fails
                self.doubtful |= {path, *self.unsynced}
                raise OSError(error.errno, error.strerror, str(path)) from error
            finally:
                os.close(handle)
        self.synced = monotonic()

    def still(self) -> None:
        """Raises Vanished where the folder is no longer the one that was opened."""
        try:
            place = os.stat(self.folder)
        except OSError:
            place = None
        if place is None or self.identity not in (None, (place.st_dev, place.st_ino)):
            raise Vanished(
                f"study folder {path_text(self.folder)} was deleted or moved while the sweep ran; "
                "the same command starts it again"
            )

    def make(self, folder: Path) -> None:
        """A cell's folder, new where there is none or where something else lies there."""
        self.still()
        inspect(self.folder)  # another program may have put a link there since the last time
        if os.path.lexists(folder) and (folder.is_symlink() or not folder.is_dir()):
            self.set_aside(folder, f"cell {folder.name} is damaged (it is no folder)")
        folder.mkdir(parents=True, exist_ok=True)

    def put(self, path: Path, data: bytes) -> None:
        """Write a file of a cell; what lies there and is no plain file is set aside. Raises
        OSError.
        """
        if os.path.lexists(path) and (path.is_symlink() or not path.is_file()):
            self.set_aside(path, f"{path.name} of cell {path.parent.name} is no plain file")
        files.write(path, data)

    def remove(self, path: Path) -> None:
        """Remove a file of a cell, if it is there; a folder in its place is set aside."""
        if path.is_dir() and not path.is_symlink():
            self.set_aside(path, f"{path.name} of cell {path.parent.name} is no plain file")
        path.unlink(missing_ok=True)

    def set_aside(self, path: Path, reason: str, rest: str = "") -> None:
        """Move a cell's folder, or one of its files, to damaged/, and note it; `rest` says what of
        it is kept.
        """
        place = self.folder / "damaged"
        inspect(self.folder)
        place.mkdir(exist_ok=True)
        names = [path.name] if path.parent.name == "cells" else [path.parent.name, path.name]
        # cut in bytes, as file systems count; half a character stays as a surrogate
        stem = os.fsdecode(os.fsencode(".".join(names))[:NAME])
        number = 1
        while os.path.lexists(target := place / f"{stem}.damaged-{number}"):
            number += 1
        os.replace(path, target)
        again = f"{rest}, the others run again" if rest else "it runs again"
        self.notes.append(one_line(f"{reason}; set aside as damaged/{target.name}: {again}", 400))


@contextmanager
def locked(folder: Path) -> Iterator[StudyFolder]:
    """The folder, created where it is new, and nobody else's while the block runs; raises
    StoreError in one line.
    """
    lock, new = _lock(folder)
    try:
        # of the open handle: another folder may lie at the path by now
        place = os.fstat(lock)
        inspect(folder)
        files.tidy(folder)
        yield StudyFolder(folder, identity=(place.st_dev, place.st_ino))
    finally:
        _leave(new)  # under the lock, so that nobody has begun in it
        os.close(lock)


def in_one_line(
    method: Callable[Concatenate[F, P], T],
) -> Callable[Concatenate[F, P], T]:
    """What the file system says against a study becomes one line; a disk that takes no more stays
    an OSError.
    """

    @wraps(method)
    def translating(study: F, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(study, *args, **kwargs)
        except OSError as error:
            # where the folder is gone, that is what there is to say
            study.still()
            raise translated(error, study.folder) from None

    return translating


def translated(error: OSError, path: Path) -> OSError | StoreError:
    """What the file system said: as it is where the disk takes no more, else in one line that names
    the path.
    """
    place = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else path
    if error.errno in files.STORAGE:
        return OSError(error.errno, error.strerror, path_text(place))
    if error.strerror is None:  # it says all by itself
        return StoreError(one_line(str(error)))
    return StoreError(
        f"{path_text(place)} cannot be used: {error.strerror}; "
        "repair it, or choose another folder with out="
    )


def inspect(folder: Path) -> None:
    """That what a study is made of is inside it; raises StoreError for a link, or for another kind
    of file.
    """
    for name in ("cells", "damaged", "grid.yaml"):
        path = folder / name
        plain = path.is_file() if path.suffix else path.is_dir()
        if os.path.lexists(path) and (path.is_symlink() or not plain):
            word = "file" if path.suffix else "folder"
            raise StoreError(
                f"{path_text(path)} is no plain {word}; "
                "remove it, or choose another folder with out="
            )


def path_text(path: Path) -> str:
    """A path for a message, of which enough must be left to say what to do."""
    return one_line(str(path), 120)


def _lock(folder: Path) -> tuple[int, list[Path]]:
    """The folder, open and locked, and which folders on the way are new; raises StoreError.

    The lock is on the folder itself: it goes with the process and leaves no file.
    """
    for _ in range(TRIES):
        new = _make_writable(folder)
        if new is None:
            continue
        try:
            lock = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise _unwritable(folder, error) from None
        if _hold(folder, lock):
            return lock, new
        os.close(lock)
    raise _unwritable(folder, OSError(0, "it cannot be made there"))


def _make_writable(folder: Path) -> list[Path] | None:
    """Make the folder, and see that files can be written in it: the folders on the way that are
    new, or None where another sweep removed one meanwhile.
    """
    try:
        # the innermost first, as `_leave` removes them
        new = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
        folder.mkdir(parents=True, exist_ok=True)
        # tried with a file that has no name, so nothing stays of it
        with tempfile.TemporaryFile(dir=folder):
            return new
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise _unwritable(folder, error) from None


def _hold(folder: Path, lock: int) -> bool:
    """Take the lock; False where the folder at this place is another one by now. Raises StoreError
    where somebody else has it.
    """
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # whoever had the lock may have removed the folder; one that is gone guards nothing
        return os.path.samestat(os.fstat(lock), os.stat(folder))
    except BlockingIOError:
        os.close(lock)
        raise StoreError(
            f"another sweep is writing to {path_text(folder)}; "
            "wait for it, or choose another folder with out="
        ) from None
    except FileNotFoundError:
        return False


def _unwritable(folder: Path, error: Exception) -> StoreError:
    detail: Any = getattr(error, "strerror", None) or error
    return StoreError(
        f"study folder {path_text(folder)} cannot be written: {detail}; choose another with out="
    )


def _leave(new: Sequence[Path]) -> None:
    """Where nothing came of a study, nothing stays."""
    for path in new:
        try:
            path.rmdir()
        except OSError:
            # it holds something by now, and so does every folder above it
            return
