"""Files: read and written whole or not at all, and never through a link."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator
from io import BufferedReader
from pathlib import Path

STORAGE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EACCES, errno.EPERM)
"""What the disk says when it takes no more."""

PART = re.compile(r"\.[0-9a-f]{16}\.part")
"""The names under which content lies until it is whole."""

SIZE = 64 * 2**20
"""Bytes of the largest file that is read into memory where the caller does not say."""


def write(path: Path, data: bytes) -> Path:
    """Put `data` at `path`, as `write_parts` does."""
    return write_parts(path, (data,))


def write_parts(path: Path, parts: Iterable[bytes]) -> Path:
    """Put the parts at `path` one behind the other, whole or not at all, also when the machine
    stops.

    The new content lies under a name of its own until a rename puts it in place. That name cannot
    be guessed and is never one that exists, so nobody can have put a link there. Raises OSError;
    for a `path` that is itself a link, too.
    """
    if path.is_symlink():
        raise OSError(errno.ELOOP, "it is a link to another file; remove it first", str(path))
    temporary = path.with_name(f".{secrets.token_hex(8)}.part")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            with contextlib.suppress(OSError):  # some network disks have no locks
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # held: `tidy` leaves it alone
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
            # before the file is closed: without its lock, `tidy` would take it for a dead writer's
            os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    # the rename is the folder's content, and is on the disk only when that is
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return path


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BufferedReader]:
    """A plain file open for reading; raises OSError for a link, a folder, a device or a pipe, and
    never waits for one.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "is no plain file", str(path))
        yield file


def read(path: Path, most: int = SIZE) -> bytes:
    """What a plain file holds; raises OSError for anything else, and for one of more than `most`
    bytes.
    """
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        # one byte more tells a file that is too large from one that just fits; asked for no more
        # than there is, for so much memory is taken first
        data = file.read(min(size, most) + 1)
    if len(data) > most:
        raise OSError(errno.EOVERFLOW, f"is larger than {most} bytes", str(path))
    return data


def tidy(folder: Path) -> None:
    """Remove what writers that were killed left behind in a folder; one that is still at work keeps
    its file.
    """
    for path in folder.iterdir():
        if PART.fullmatch(path.name) is None:
            continue
        with contextlib.suppress(OSError), opened(path) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
