"""Torch's FLOP counter, 2 per multiply-add, made to see attention on the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


def counter() -> FlopCounterMode:
    """A context manager; after it `get_total_flops()` gives the FLOPs of every matrix product inside.

    Some torch versions do not see scaled dot product attention on the CPU, hence the mapping. Attention counts in full,
    causal or not.
    """
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return FlopCounterMode(display=False, custom_mapping={kernel: _attention_flops})


def _attention_flops(query: torch.Size, key: torch.Size, value: torch.Size, *_args: Any, **_kwargs: Any) -> int:
    """Both products, from shapes [batch, heads, length, head dimension]; grouped keys are read once per query head."""
    batch, heads, rows, width = query
    return 2 * batch * heads * rows * key[2] * (width + value[3])
