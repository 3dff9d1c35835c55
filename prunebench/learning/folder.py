"""Folder: where a training run lies, which one process at a time writes, whole files at a time."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from prunebench.border.files import PART
from prunebench.border.text import message, one_line, short_path

FRESH, OLD = ".fresh-", ".old-"
"""How a folder begins that is about to take another's place, and one that is about to go."""

MESSAGE = 270
"""Characters of an error's text at most, so that it fits a line with what a command puts before it.
"""

PATH = 100
"""Characters of a path in such a text; of a longer one the end, which says most."""


class RunError(ValueError):
    """What keeps a training run from beginning, from going on or from being kept; one line, with
    the way out.
    """

    def __init__(self, text: str) -> None:
        super().__init__(one_line(text, MESSAGE))


@contextmanager
def locked_folder(folder: Path, way_out: str) -> Iterator[None]:
    """Make the folder where it is not there, and hold it: no other process opens it meanwhile.

    A folder that is new and stays empty is removed again. Raises RunError where it cannot be made
    or written, and where another process holds it; `way_out` says how to choose another one.
    """
    new_folders = _make(folder, way_out)
    try:
        handle = _lock(folder, way_out)
        try:
            yield
        finally:
            os.close(handle)
    finally:
        _remove_empty(new_folders)


def check_places(folder: Path, files: Sequence[str], folders: Sequence[str], way_out: str) -> None:
    """Raise RunError where something else lies in the place of what a run writes.

    A link is something else, wherever it leads.
    """
    for name in (*files, *folders):
        place = folder / name
        if place.is_symlink():
            fault = "is a link to something else"
        elif not place.exists() or place.is_dir() == (name in folders):
            continue
        else:
            fault = "is no folder" if name in folders else "is no file"
        raise RunError(f"{short(place)} {fault}: remove it, or {way_out}")


def tidy(folder: Path, folders: Sequence[str]) -> None:
    """Finish what a run that was killed had begun, and remove what it left behind."""
    for name in folders:
        _recover(folder / name, folder / f"{OLD}{name}")
        discard(folder / f"{FRESH}{name}")
    for path in folder.iterdir():
        if PART.fullmatch(path.name):
            discard(path)


@contextmanager
def replaced(target: Path) -> Iterator[Path]:
    """An empty folder to fill, which in the end takes the place of `target`.

    Where the block fails `target` stays as it was. Raises RunError for what the disk says.
    """
    fresh = target.with_name(f"{FRESH}{target.name}")
    old = target.with_name(f"{OLD}{target.name}")
    with storing(target):
        discard(fresh)
        fresh.mkdir()
        try:
            yield fresh
            # killed between the two renames, a run leaves the old folder for `_recover` to put back
            if target.exists():
                target.rename(old)
            fresh.rename(target)
        finally:
            _recover(target, old)
            discard(fresh)


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turn what the disk says into a RunError of one line."""
    try:
        yield
    except OSError as error:
        kept = "what was saved before is kept, and the same command goes on"
        raise RunError(f"{short(path)} cannot be written: {_reason(error)}; {kept}") from error


def discard(path: Path) -> None:
    """Remove a file, a link or a folder; what is not there is gone already."""
    # rmtree refuses a link, and what it leads to is not ours to remove
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def short(path: Path) -> str:
    """A path for a message."""
    return short_path(path, PATH)


def _make(folder: Path, way_out: str) -> list[Path]:
    """Which folders had to be made for this one, the innermost first."""
    try:
        new_folders = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = f"folder {short(folder)} cannot be made: {_reason(error)}"
        raise RunError(f"{reason}; {way_out}") from None
    return new_folders


def _lock(folder: Path, way_out: str) -> int:
    """A handle of the folder that locks it until it is closed."""
    try:
        with tempfile.TemporaryFile(dir=folder):  # whether it can be written at all
            pass
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        reason = f"folder {short(folder)} cannot be written: {_reason(error)}"
        raise RunError(f"{reason}; {way_out}") from None
    try:
        # on the folder itself: the lock goes with the process, and leaves no file
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        if isinstance(error, BlockingIOError):
            reason = f"another run is writing to {short(folder)}: wait for it"
            raise RunError(f"{reason}, or {way_out}") from None
        reason = f"folder {short(folder)} cannot be locked: {_reason(error)}"
        raise RunError(f"{reason}; {way_out}") from None
    return handle


def _recover(target: Path, old: Path) -> None:
    """Put a folder that was moved aside back where nothing took its place, and remove it where
    something did.
    """
    if old.exists() and not target.exists():
        old.rename(target)
    discard(old)


def _remove_empty(folders: Sequence[Path]) -> None:
    """Take away folders that were made for nothing."""
    # innermost first: around one that is not empty none is
    for path in folders:
        try:
            path.rmdir()
        except OSError:
            return


def _reason(error: BaseException) -> str:
    """What went wrong, without the path that the message names already."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return one_line(message(error), 80)
