"""Quantized: weights of 8 or 4 bits, which bitsandbytes makes while a model is loaded."""

from __future__ import annotations

import importlib.util
import logging
from typing import Any, Literal, get_args

import torch
from torch import nn

from prunebench.border.text import one_line
from prunebench.models.errors import LoadError

Quantization = Literal["none", "8bit", "4bit"]
"""How many bits a weight of the linear layers has; of a language model's head, and of everything
else, as many as its dtype.
"""


def quantization_of(
    name: Quantization | str, config: Any, dtype: torch.dtype, random: bool
) -> Any | None:
    """What transformers is to make of the weights while it loads them; None for nothing.

    Raises LoadError where that is not known, cannot be had, or has been done already.
    """
    if name not in get_args(Quantization):
        raise LoadError(f"quantization is {one_line(name, 40)!r}; it is none, 8bit or 4bit")
    if name == "none":
        return None
    if random:
        raise LoadError(
            f"quantization is {name}, and random weights are not quantized; leave one of them out"
        )
    if getattr(config, "quantization_config", None) is not None:
        raise LoadError(
            f"quantization is {name}, and its weights are stored quantized; leave it out"
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise LoadError(
            f"quantization is {name}, for which bitsandbytes is missing; "
            "install it with `pip install bitsandbytes accelerate`"
        )
    from transformers import BitsAndBytesConfig

    if name == "8bit":
        # once a layer and call it says that it computes in float16
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_compute_dtype=dtype, bnb_4bit_quant_type="nf4"
    )


def keep_packing(model: nn.Module) -> None:
    """Keep weights of 4 bits as they were packed when they were made.

    On a CPU with AVX512-BF16 bitsandbytes packs them anew at their first call: they compute in
    bfloat16 from then on, other numbers than on any other CPU, and rows that are no whole blocks of
    64 cannot be packed at all (bitsandbytes 0.50, functional._convert_weight_packed_for_cpu).
    """
    linear: Any
    for linear in model.modules():
        if hasattr(linear, "support_avx512bf16_for_cpu"):
            linear.support_avx512bf16_for_cpu = False
