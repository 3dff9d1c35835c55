"""Verified: the record of how many official vectors each installed method agreed with, and of the
code that did.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prunebench import registry
from prunebench.budget import Budget, BudgetError, Stage
from prunebench.identity import source_digest
from prunebench.pruner import Pruner
from prunebench.sites import Part
from prunebench.testing.vectors import VerifyError
from prunebench.testing.verify import Comparison, parts_shown, summary


def write_verified(comparisons: Sequence[Comparison], path: Path | None = None) -> Path:
    """Record each method's count beside the digest of its code; methods that were not verified now
    keep their record. Raises VerifyError where the record cannot be written.
    """
    path = record_path() if path is None else path
    record = read_verified(path)
    parts = parts_shown(comparisons)
    for method, (agree, files) in summary(comparisons).items():
        # a file outside the package has no place in its record
        if method in [*registry.names(), *registry.addons()]:
            kind = registry.get(method)
            record[method] = {
                "agree": agree,
                "files": files,
                "source": source_digest(kind),
                "stages": stages_of(method, parts[method]),
            }
    try:
        path.write_text(json.dumps(dict(sorted(record.items())), indent=2) + "\n")
    except OSError as error:
        raise VerifyError(f"{path} cannot be written: {error.strerror}") from error
    return path


def read_verified(path: Path | None = None) -> dict[str, dict[str, Any]]:
    """The record that `write_verified` left: method -> {agree, files, source, stages}."""
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
    count = f"verified: {shown(entry)}"
    if entry["source"] != source_digest(kind):
        count += " (before its last change)"
    return "; ".join([count, *notes])


def shown(entry: Mapping[str, Any]) -> str:
    """What a method's entry in the record says, in a few words: "3 vectors", "2 of 3 vectors", or
    "stage 1 of 2, 3 vectors" where vectors show some of its stages alone.
    """
    agree, files = entry["agree"], entry["files"]
    vectors = f"{files} vectors" if agree == files else f"{agree} of {files} vectors"
    numbers, count = entry["stages"]
    if len(numbers) == count:
        return vectors
    return f"stage {' and '.join(map(str, numbers)) or 0} of {count}, {vectors}"


def stages_of(method: str, parts: Sequence[Part]) -> tuple[list[int], int]:
    """What `stages_shown` says of a method by its name; an add-on works at its base's one stage."""
    if method in registry.addons():
        return [1], 1
    return stages_shown(registry.build(method), parts)


def stages_shown(pruner: Pruner, parts: Sequence[Part]) -> tuple[list[int], int]:
    """Which stages of a method vectors show, counted from 1, and how many it has.

    Stages in one part of the model count as one: they do the same.
    """
    planned = {stage.site.part for stage in _plan(pruner)}
    every = sorted(planned | {*parts})
    return [number for number, part in enumerate(every, 1) if part in parts], len(every)


def _plan(pruner: Pruner) -> tuple[Stage, ...]:
    """Its stages in some model; none where it says them of a model alone."""
    for budget in (Budget(0.5), None):
        try:
            return pruner.plan(budget, 576, 32)
        except BudgetError:
            continue
    return ()


def record_path() -> Path:
    """The record's file, beside the methods, so that an installed package has it, too."""
    return Path(importlib.import_module(registry.PACKAGE).__path__[0]) / "verified.json"
