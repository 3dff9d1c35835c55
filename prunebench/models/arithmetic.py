"""FLOPs of the parts that transformers are made of, 2 per multiply-add."""

from __future__ import annotations

from collections.abc import Sequence


def linear(rows: int, inputs: int, outputs: int) -> int:
    """A projection of `rows` vectors."""
    return 2 * rows * inputs * outputs


def attention(queries: int, keys: int, width: int) -> int:
    """Both attention products in full, causal or not; `width` is heads times head dimension."""
    return 4 * queries * keys * width


def encoder_block(segments: Sequence[int], width: int, intermediate: int, gated: bool) -> int:
    """A vision transformer block whose tokens attend within segments (windows, images, frames) of
    these lengths.

    `gated` says that the MLP has three matrices (SwiGLU) instead of two.
    """
    tokens = sum(segments)
    products = sum(attention(length, length, width) for length in segments)
    return (
        linear(tokens, width, 4 * width)
        + products
        + linear(tokens, width, intermediate) * (3 if gated else 2)
    )
