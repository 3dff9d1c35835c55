"""Verified: the record of how many official vectors each installed method agreed with, and of the
code that did.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prunebench import registry
from prunebench.identity import source_digest
from prunebench.testing.vectors import VerifyError
from prunebench.testing.verify import Comparison, summary


def write_verified(comparisons: Sequence[Comparison], path: Path | None = None) -> Path:
    """Record each method's count beside the digest of its code; methods that were not verified now
    keep their record. Raises VerifyError where the record cannot be written.
    """
    path = record_path() if path is None else path
    record = read_verified(path)
    for method, (agree, files) in summary(comparisons).items():
        if method in registry.names():  # a file outside the package has no place in its record
            source = source_digest(registry.get(method))
            record[method] = {"agree": agree, "files": files, "source": source}
    try:
        path.write_text(json.dumps(dict(sorted(record.items())), indent=2) + "\n")
    except OSError as error:
        raise VerifyError(f"{path} cannot be written: {error.strerror}") from error
    return path


def read_verified(path: Path | None = None) -> dict[str, dict[str, Any]]:
    """The record that `write_verified` left: method -> {agree, files, source}."""
    path = record_path() if path is None else path
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def status(method: str, path: Path | None = None) -> str:
    """What is known about an installed method's faithfulness, in a few words."""
    entry = read_verified(path).get(method)
    kind = registry.get(method)
    card = registry.card(kind)
    notes = [f"variant: {card.variant}"] if card.variant else []
    if card.reconstruction:
        notes.append("reconstruction")
    if entry is None:
        return "; ".join(notes) or "no vectors"
    count = f"verified {entry['agree']}/{entry['files']}"
    if entry["source"] != source_digest(kind):
        count += " (before its last change)"
    return "; ".join([count, *notes])


def record_path() -> Path:
    """The record's file, beside the methods, so that an installed package has it, too."""
    return Path(importlib.import_module(registry.PACKAGE).__path__[0]) / "verified.json"
