"""Lora: a low-rank adapter in peft's file layout, added to a model's weights for as long as a session lives."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from prunebench.models.base import Unsupported

PREFIX = "base_model.model."


@contextmanager
def tuned(model: nn.Module, folder: Path | None) -> Iterator[None]:
    """Add the adapter of `folder` to the model's weights; on leaving, the very tensors from before are back.

    None does nothing. Raises Unsupported where the folder holds no adapter, or one for another model.
    """
    before: list[tuple[nn.Parameter, Tensor]] = []
    try:
        for weight, change in _changes(model, folder) if folder is not None else ():
            before.append((weight, weight.data))
            weight.data = (weight.data.float() + change).to(weight.dtype)
        yield
    finally:
        for weight, data in before:
            weight.data = data


def _changes(model: nn.Module, folder: Path) -> Iterator[tuple[nn.Parameter, Tensor]]:
    """Every weight that the adapter changes, with B A alpha / r."""
    from safetensors.torch import load_file

    try:
        config: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text())
        state = load_file(folder / "adapter_model.safetensors")
    except (OSError, ValueError) as error:
        raise Unsupported(f"{folder} holds no adapter in peft's layout: {str(error).splitlines()[0]}") from error
    scale = config["lora_alpha"] / config["r"]
    for name, down in state.items():
        if not name.endswith("lora_A.weight"):
            continue
        owner = name.removeprefix(PREFIX).removesuffix(".lora_A.weight")
        up = state[name.replace("lora_A", "lora_B")]
        try:
            weight = model.get_submodule(owner).weight
        except AttributeError as error:
            raise Unsupported(f"the adapter in {folder} changes {owner}, which this model does not have") from error
        if not isinstance(weight, nn.Parameter) or weight.shape != (up.shape[0], down.shape[1]):
            raise Unsupported(f"the adapter in {folder} does not fit {owner}")
        yield weight, (up.float() @ down.float()).to(weight.device) * scale
