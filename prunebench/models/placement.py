"""Placement: layers that are spread over devices, memory and disk, as accelerate does it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from prunebench.border.text import one_line
from prunebench.models.errors import LoadError

SPREADS = ("auto", "balanced", "balanced_low_0", "sequential")
"""How accelerate spreads layers by itself."""

DeviceMap = str | Mapping[str, str | int]
"""One of these, a device, or by a module's name the device or "disk" that it lies on."""


def device_map_of(name: DeviceMap, random: bool) -> str | Mapping[str, str | int] | None:
    """What transformers is told of where layers lie; None for a model that is in one place.

    Raises LoadError where that is no way of spreading them, or cannot be had.
    """
    if name == "none":
        return None
    text = one_line(str(name), 60)
    if isinstance(name, str) and name not in SPREADS and not _is_device(name):
        raise LoadError(
            f"device_map is {text!r}; it is none, {', '.join(SPREADS)} or a device such as cuda:0"
        )
    if random:
        raise LoadError(
            f"device_map is {text}, and random weights are made in one place; leave one of them out"
        )
    if importlib.util.find_spec("accelerate") is None:
        raise LoadError(
            f"device_map is {text}, for which accelerate is missing; "
            "install it with `pip install accelerate`"
        )
    return {"": name} if isinstance(name, str) and name not in SPREADS else name


def devices_of(model: Any) -> list[str]:
    """Where parts of a model lie, in order, each place once: devices' names, "cpu", "disk"."""
    places = getattr(model, "hf_device_map", None)
    if not places:
        return [str(model.device)]
    return list(dict.fromkeys(_name_of(place) for place in places.values()))


def entry_of(model: Any) -> torch.device:
    """The device that a model takes its inputs on: the first that computes.

    Layers that lie in memory or on disk are fetched by the first GPU where there is one.
    """
    names = devices_of(model)
    gpus = [name for name in names if name not in ("cpu", "disk")]
    return torch.device(gpus[0] if gpus else "cpu")


def tensors_of(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """All weights by name, those that lie elsewhere fetched one at a time."""
    for name, tensor in model.state_dict().items():
        if not tensor.is_meta:
            yield name, tensor
            continue
        from accelerate.utils import align_module_device

        owner, _, last = name.rpartition(".")
        with align_module_device(model.get_submodule(owner), "cpu"):
            yield name, getattr(model.get_submodule(owner), last)


def _is_device(name: str) -> bool:
    """Whether torch knows such a device, and it is there."""
    try:
        device = torch.device(name)
    except RuntimeError:
        return False
    if device.type != "cuda":
        return device.type == "cpu"
    count = torch.cuda.device_count()
    if (device.index or 0) < count:
        return True
    raise LoadError(f"device_map is {one_line(name, 40)!r}, and torch sees {count} GPUs here")


def _name_of(place: Any) -> str:
    """A place as accelerate writes it: a number is a GPU's."""
    return f"cuda:{place}" if isinstance(place, int) else str(place)
