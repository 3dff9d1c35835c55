"""Window: how far back a model's layers look, where they do not look at everything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prunebench.models.base import CHUNKED, FULL, SLIDING, STATEFUL, Unsupported


def check_kinds(kinds: Sequence[str]) -> None:
    """Raise Unsupported for layers of a kind that no seam is known for."""
    strange = sorted({*kinds} - {*STATEFUL, CHUNKED, FULL, SLIDING})
    if strange:
        raise Unsupported(f"the model has {strange[0]} layers, which no engine seam serves")


def window_of(config: Any, kind: str) -> int | None:
    """How far back the layers of a kind look, in positions; None where that is everything."""
    width = getattr(config, "sliding_window", None) if kind == SLIDING else None
    return None if width is None else int(width)


def chunk_of(config: Any, kinds: Sequence[str]) -> int | None:
    """The positions of a chunk, where any layers look at one alone."""
    width = getattr(config, "attention_chunk_size", None) if CHUNKED in kinds else None
    return None if width is None else int(width)


def check_chunk(chunk: int | None, positions: int) -> None:
    """Raise Unsupported where a sequence of so many positions reaches into a second chunk.

    A chunk counts positions, and a pruned sequence has gaps: behind its edge dropping is not the
    same as hiding.
    """
    if chunk is not None and positions >= chunk:
        raise Unsupported(
            f"layers of the model look at chunks of {chunk} positions (attention_chunk_size) and "
            f"the sequence has {positions}: there dropping is not the same as hiding; use shorter "
            "inputs"
        )


def check_window(kernel: str, window: int | None, positions: int) -> None:
    """Raise Unsupported where a kernel that counts a window itself, among the tokens that are
    left, would count past tokens that were dropped.
    """
    if "flash" in kernel and window is not None and positions > window:
        raise Unsupported(
            f"the model looks back {window} positions (sliding_window), which flash attention "
            f"counts itself, and the sequence has {positions}; load the model with "
            "attn_implementation='sdpa'"
        )
