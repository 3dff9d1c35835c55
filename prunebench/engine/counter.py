"""FLOPs, 2 per multiply-add: the formulas of the parts of a transformer, and torch's counter where there is no formula."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


def linear(rows: int, inputs: int, outputs: int) -> int:
    """A projection of `rows` vectors."""
    return 2 * rows * inputs * outputs


def attention(queries: int, keys: int, width: int) -> int:
    """Both attention products in full, causal or not; `width` is heads times head dimension."""
    return 4 * queries * keys * width


def encoder_block(segments: Sequence[int], width: int, intermediate: int, gated: bool) -> int:
    """A vision transformer block whose tokens attend within segments (windows, images, frames) of these lengths.

    `gated` says that the MLP has three matrices (SwiGLU) instead of two.
    """
    tokens = sum(segments)
    products = sum(attention(length, length, width) for length in segments)
    return linear(tokens, width, 4 * width) + products + linear(tokens, width, intermediate) * (3 if gated else 2)


def counter() -> FlopCounterMode:
    """A context manager; after it `get_total_flops()` gives the FLOPs of every matrix product inside.

    Some torch versions do not see scaled dot product attention on the CPU, hence the mapping. Attention counts in full,
    causal or not.
    """
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return FlopCounterMode(display=False, custom_mapping={kernel: _attention_flops})


def _attention_flops(
    query: torch.Size, key: torch.Size, value: torch.Size, *args: Any, out_shape: Any = None, **kwargs: Any
) -> int:
    """Both products, from the shapes [batch, heads, length, head dimension]; grouped keys are read once per query head."""
    batch, heads, rows, width = query
    return 2 * batch * heads * rows * key[2] * (width + value[3])
