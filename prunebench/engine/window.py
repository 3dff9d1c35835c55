"""Window: how far back a model's layers look, where they do not look at everything."""

from __future__ import annotations

from typing import Any

from prunebench.models.base import FULL, STATEFUL, Unsupported

KINDS = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}
"""Kinds of layers that look back a limited way, and where a configuration says how far."""


def window_of(config: Any) -> int | None:
    """The shortest window of any layer, in positions; None where every layer looks at everything.

    A layer that keeps a state reads the sequence as it is and has none. Raises Unsupported for
    layers of a kind that no seam is known for.
    """
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        # some models, such as Mistral, have one window for all layers and no list
        widths = [getattr(config, name, None) for name in KINDS.values()]
    else:
        strange = sorted({*kinds} - {*KINDS, *STATEFUL, FULL})
        if strange:
            raise Unsupported(f"the model has {strange[0]} layers, which no engine seam serves")
        widths = [getattr(config, KINDS[kind], None) for kind in KINDS if kind in kinds]
    narrow = [int(width) for width in widths if width is not None]
    return min(narrow) if narrow else None


def check_window(window: int | None, positions: int) -> None:
    """Raise Unsupported where a sequence of so many positions reaches a window's edge.

    A window counts positions, and a pruned sequence has gaps: behind the edge dropping is not the
    same as hiding. Up to it a window hides nothing.
    """
    if window is not None and positions >= window:
        raise Unsupported(
            f"the model looks back {window} positions (sliding_window) and the sequence has "
            f"{positions}: there dropping is not the same as hiding; use shorter inputs"
        )
