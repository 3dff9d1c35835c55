"""Window: how far back a model's layers look, where they do not look at everything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from prunebench.models.base import CHUNKED, FULL, SLIDING, STATEFUL, Unsupported

if TYPE_CHECKING:
    from prunebench.engine.setup import Setup


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


def check_window(setup: Setup, positions: int, together: bool = False) -> None:
    """Raise Unsupported where layers cannot be made to see of a pruned sequence what they would see
    of the whole one, which has so many positions; `together` says that some see each other in
    whatever order.
    """
    chunk, window = setup.chunk, setup.window
    if chunk is not None and positions >= chunk:
        raise Unsupported(
            f"layers of the model look at chunks of {chunk} positions (attention_chunk_size) and "
            f"the sequence has {positions}: there dropping is not the same as hiding; use shorter "
            "inputs"
        )
    if "flash" not in setup.kernel:
        return
    way_out = "load the model with attn_implementation='sdpa'"
    if window is not None and positions > window:
        raise Unsupported(
            f"the model looks back {window} positions (sliding_window), which flash attention "
            f"counts itself, and the sequence has {positions}; {way_out}"
        )
    if together:
        raise Unsupported(
            "the tokens of an image see each other in both directions, which flash attention is "
            f"not told; {way_out}"
        )
