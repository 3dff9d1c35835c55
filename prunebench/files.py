"""Files: written whole or not at all, and never through a link."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def write(path: Path, data: bytes) -> Path:
    """Put `data` at `path`, whole or not at all, also when the machine stops.

    The new content lies under a name of its own until a rename puts it in place. That name cannot be guessed and is
    never one that exists, so nobody can have put a link there. Raises OSError; for a `path` that is itself a link, too.
    """
    if path.is_symlink():
        raise OSError(f"{path} is a link to another file; remove it first")
    temporary = path.with_name(f".{secrets.token_hex(8)}.part")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return path
