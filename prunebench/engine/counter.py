"""Torch's FLOP counter, 2 per multiply-add, made to see attention on the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


def counter() -> FlopCounterMode:
    """A context manager; after it `get_total_flops()` gives the FLOPs of every matrix product
    inside.

    Torch versions differ in what they see: scaled dot product attention on the CPU and the grouped
    product of experts are added here. Attention counts in full, causal or not.
    """
    unseen: dict[Any, Any] = {
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops
    }
    if hasattr(torch.ops.aten, "_grouped_mm"):
        unseen[torch.ops.aten._grouped_mm] = _grouped_flops
    return FlopCounterMode(display=False, custom_mapping=unseen)


def _attention_flops(
    query: torch.Size, key: torch.Size, value: torch.Size, *_args: Any, **_kwargs: Any
) -> int:
    """Both products, from shapes [batch, heads, length, head dimension]; grouped keys are read once
    per query head.
    """
    batch, heads, rows, width = query
    return 2 * batch * heads * rows * key[2] * (width + value[3])


def _grouped_flops(rows: torch.Size, weights: torch.Size, *_args: Any, **_kwargs: Any) -> int:
    """Every one of [tokens, inputs] rows meets the one of [experts, inputs, outputs] weights that
    it is sorted to.
    """
    return 2 * rows[0] * rows[1] * weights[-1]
