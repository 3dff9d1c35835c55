"""Listing: the rows of `list methods`, kept beside the methods, so that none has to be imported.

Importing a method brings torch, which takes seconds. A row that is kept counts only while every
file that it was made from is byte for byte what it was; any other method is imported.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunebench.cli.names import folder_of

if TYPE_CHECKING:
    from prunebench.pruner import Pruner

Row = dict[str, Any]

FILE = "listed.json"

RECORD = "verified.json"
"""What rows take a method's status from."""


def kept_rows(folder: Path | None = None) -> dict[str, Row]:
    """By name, the rows that still hold, of the methods in a folder or of the installed ones."""
    folder = folder_of("prunebench.methods") if folder is None else folder
    try:
        entries = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none was written, or by somebody else
        return {}
    rows = {}
    for name, entry in entries.items():
        if _digests(folder, entry["files"]) == entry["files"]:
            rows[name] = entry["row"]
    return rows


def keep(rows: Mapping[str, Row], methods: Mapping[str, type[Pruner]], folder: Path) -> None:
    """Write the rows of methods that are made of files of one folder and of nothing else."""
    entries: dict[str, Any] = {}
    for name, row in sorted(rows.items()):
        files = _files(methods[name], folder)
        if files is not None:
            entries[name] = {"row": row, "files": _digests(folder, files)}
    (folder / FILE).write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")


def _files(method: type[Pruner], folder: Path) -> list[str] | None:
    """The names of the files that decide a method's row; None where one lies elsewhere."""
    from prunebench.identity import source_files

    names = [RECORD]
    for path in source_files(method):
        if not path.resolve().is_relative_to(folder.resolve()):
            return None
        names.append(path.resolve().relative_to(folder.resolve()).as_posix())
    return names


def _digests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """What the files hold now; nothing for one that is not there."""
    digests = {}
    for name in sorted(names):
        path = folder / name
        digests[name] = sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
    return digests
