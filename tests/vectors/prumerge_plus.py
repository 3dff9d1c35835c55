"""PruMerge+'s vectors: those of PruMerge with a grid, all adaptive."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prunebench.testing.case import Case
from prunebench.testing.translators import load_translator
from prunebench.testing.vectors import Vector


def cases(method: Any, vector: Vector) -> Iterator[Case]:
    """As PruMerge's are translated."""
    base = load_translator("prumerge")
    assert base is not None
    yield from base.cases(method, vector)
