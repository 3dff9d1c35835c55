"""LoRA: the low-rank adapter that tuning gives a model, in peft's layout, through transformers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prunebench.border.bounds import BoundsError
from prunebench.engine.lora import PREFIX
from prunebench.learning.schedule import Tuning
from prunebench.models import Loaded
from prunebench.training.student import MOST_PARAMETERS

WEIGHTS = "adapter_model.safetensors"
"""The file that peft keeps an adapter's weights in."""


def check_rank(loaded: Loaded, rank: int) -> None:
    """Raise BoundsError for a rank that the model's matrices cannot have, or no memory holds."""
    sides = [(part.in_features, part.out_features) for part in linear_parts(loaded).values()]
    most = min(min(pair) for pair in sides)
    if rank > most:
        smallest = f"the smallest matrix of {loaded.id} that is tuned has {most}"
        raise BoundsError(f"rank is {rank}; {smallest}")
    count = rank * sum(map(sum, sides))
    if count > MOST_PARAMETERS:
        raise BoundsError(
            f"rank is {rank}, which makes {count:,} parameters; "
            f"at most {MOST_PARAMETERS:,} can be trained"
        )


def linear_parts(loaded: Loaded) -> dict[str, nn.Linear]:
    """The matrices of the language layers, by name."""
    inside: set[nn.Module] = set()
    for layer in loaded.family.layers(loaded.model):
        inside.update(layer.modules())
    linear = {}
    for name, part in loaded.model.named_modules():
        if isinstance(part, nn.Linear) and part in inside:
            linear[name] = part
    return linear


def wear(loaded: Loaded, tuning: Tuning) -> Any:
    """Give the model a fresh adapter, drawn from the seed, and return its configuration."""
    from peft import LoraConfig

    torch.manual_seed(tuning.seed)
    config = LoraConfig(
        r=tuning.rank,
        lora_alpha=tuning.alpha,
        lora_dropout=tuning.dropout,
        target_modules=list(linear_parts(loaded)),
    )
    loaded.model.add_adapter(config)
    return config


def weights_of(model: Any) -> dict[str, nn.Parameter]:
    """The weights of the adapter that a model wears, by name."""
    return {name: weight for name, weight in model.named_parameters() if "lora_" in name}


@contextmanager
def unworn(model: Any) -> Iterator[None]:
    """The model without its adapter, and without dropout."""
    model.disable_adapters()
    # the adapter's switch leaves the mode alone, and a reference must not be drawn by dropout
    model.eval()
    try:
        yield
    finally:
        model.enable_adapters()


def write(loaded: Loaded, config: Any, folder: Path) -> None:
    """Put the adapter that the model wears into an empty folder."""
    from peft.utils import get_peft_model_state_dict
    from safetensors.torch import save_file

    state = get_peft_model_state_dict(loaded.model, adapter_name="default")
    weights = {}
    for name, value in state.items():
        full_name = f"{PREFIX}{name.removeprefix(PREFIX)}"
        weights[full_name] = value.detach().cpu().contiguous()
    config.base_model_name_or_path = loaded.id
    save_file(weights, folder / WEIGHTS)
    # safetensors writes files that only their owner can read
    (folder / WEIGHTS).chmod(0o644)
    config.save_pretrained(str(folder))
