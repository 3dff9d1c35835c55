"""Fold: what an aggregation gives, as a number, as several, or as files to be sent away."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prunebench.border.text import one_line

SUBMISSION = "submission-"
"""How the name of a file begins that is kept in a cell's folder to be sent to a task's own server.
"""

LARGEST = 100 * 2**20
"""Bytes of a submission that is kept."""


@dataclass(frozen=True)
class Fold:
    """What a task makes of the answers to all its samples in one metric.

    `value` is None where it gives no number: `note` then says why. `parts` are the numbers of an
    aggregation that gives several. `files` are what it wrote to be sent to a server.
    """

    value: float | None = None
    parts: Mapping[str, float] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    note: str = ""


def folded(value: Any, files: Mapping[str, bytes]) -> Fold:
    """What an aggregation gave, as numbers where it gave any."""
    plain = number(value)
    if plain is not None:
        if plain != plain or abs(plain) == float("inf"):
            return Fold(note="its aggregation gives no finite number")
        return Fold(plain)
    parts = _parts(value)
    if parts:
        return Fold(_total(parts), parts, note="its aggregation gives several numbers")
    if files:
        names = ", ".join(sorted(files))
        return Fold(files=files, note=f"no number here, but {names} to be sent to its server")
    kind = "nothing" if value is None else f"a {type(value).__name__}"
    return Fold(note=f"its aggregation gives {kind}, and no number")


def _parts(value: Any, prefix: str = "") -> dict[str, float]:
    """The finite numbers of a mapping or a sequence, by what leads to them."""
    parts: dict[str, float] = {}
    if isinstance(value, Mapping):
        entries = [(str(key), entry) for key, entry in value.items()]
    elif isinstance(value, list | tuple):
        entries = [(str(place), entry) for place, entry in enumerate(value)]
    else:
        return parts
    for key, entry in entries[:100]:
        name = one_line(f"{prefix}/{key}", 100)
        plain = number(entry)
        if plain is None:
            parts |= _parts(entry, name)
        elif abs(plain) < float("inf"):
            parts[name] = plain
    return parts


def _total(parts: Mapping[str, float]) -> float | None:
    """The number of several that stands for all; None where none says that it does."""
    if len(parts) == 1:
        return next(iter(parts.values()))
    for word in ("overall", "average", "avg", "all", "total", "accuracy", "acc", "score"):
        for name, value in parts.items():
            if name.lower().strip("/") == word:
                return value
    return None


def written(folder: Path) -> dict[str, bytes]:
    """What lies in a folder, by a name that a cell's folder has no other file of."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_file() or path.stat().st_size > LARGEST:
            continue
        name = re.sub(r"[^A-Za-z0-9._+-]", "-", path.name)[-150:]
        files[SUBMISSION + name] = path.read_bytes()
    return files


def number(value: Any) -> float | None:
    """A plain or numpy number as a float, None for anything else."""
    plain = value.item() if hasattr(value, "dtype") and value.size == 1 else value
    return float(plain) if isinstance(plain, int | float) else None
