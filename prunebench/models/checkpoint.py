"""Checkpoint: what is looked at before and after transformers loads weights, so that nothing is
filled up in silence.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prunebench.border import weights
from prunebench.border.text import message, one_line
from prunebench.models.errors import LoadError
from prunebench.models.placement import tensors_of

DEEPEST = 1000
"""Layers beyond which a config.json describes no model: building one would never end."""

SPARE = 250_000_000
"""Parameters, 1 GB as float32, that may be made up before their names are known."""

MEMORY = Path("/proc/meminfo")

_DEPTHS = ("num_hidden_layers", "num_layers", "n_layers", "depth")


@dataclass(frozen=True)
class Header:
    """What the safetensors files of a folder say that they hold."""

    elements: int
    odd: tuple[str, ...]
    """Names of weights and biases that are stored as anything but real numbers."""


def header(folder: Path, partial: bool = False) -> Header | None:
    """The header of a folder's weights; None where it holds none in safetensors.

    Raises LoadError naming the file that is gone or broken. A `partial` folder, the hub's cache,
    may still get some.
    """
    elements = 0
    odd: list[str] = []
    files = _files(folder, partial)
    for file in files:
        for name, (dtype, shape) in _tensors(file).items():
            elements += torch.Size(shape).numel()
            # safetensors' names of real types: F32, F16, F8_E4M3, BF16 and so on
            if not dtype.startswith(("F", "BF")) and name.endswith((".weight", ".bias")):
                odd.append(name)
    return Header(elements, tuple(odd)) if files else None


def check_config(values: Any) -> None:
    """Raises LoadError for the content of a config.json that has no end, or no number where one is
    due.

    This comes before transformers reads it: a list of a billion layers is made there already.
    """
    if not isinstance(values, Mapping):
        raise LoadError(
            "its config.json holds no settings; it starts with { and names a model_type"
        )
    for settings in _nested(values):
        for name in _DEPTHS:
            depth = settings.get(name)
            if isinstance(depth, int) and depth > DEEPEST:
                raise LoadError(
                    f"its config.json gives {name} above {DEEPEST}; no model has that many layers"
                )
        for name, value in settings.items():
            if isinstance(value, float) and math.isnan(value):
                raise LoadError(
                    f"its config.json says that {one_line(str(name), 80)} is NaN; give a number"
                )


def check_size(
    model: nn.Module, stored: Header | None, quantized: bool, dtype: torch.dtype, device: str
) -> None:
    """Compare a model without data with what is stored and with the memory there is.

    transformers makes up the tensors that do not fit before it says so: a wrong size in a
    config.json costs any amount of memory. Raises LoadError.
    """
    due = sum(parameter.numel() for parameter in model.parameters())
    if stored is not None and not quantized:
        if stored.odd:
            names = ", ".join(one_line(name, 70) for name in stored.odd[:2])
            raise LoadError(
                f"its weights are no real numbers ({names}), "
                "and its config.json names no quantization"
            )
        # less is not checked here: what is lacking has a name once it is loaded
        if due > 4 * stored.elements + SPARE:
            raise LoadError(
                f"its config.json describes {due:,} parameters, "
                f"and its weights are {stored.elements:,}"
            )
    room = _available()
    need = due * dtype.itemsize
    if device == "cpu" and not quantized and room is not None and need > room:
        raise LoadError(
            f"not enough memory: {need / 1e9:.1f} GB as {_short(dtype)} "
            f"and {room / 1e9:.1f} GB are free; take a smaller model, another dtype or a GPU"
        )


def check_loaded(model: nn.Module, report: Mapping[str, Any]) -> None:
    """Raises LoadError naming tensors that transformers had to make up, did not use, or that are no
    numbers.

    What is legitimate is left out of the report by the model's class: tied weights, buffers that
    are computed, keys of older layouts, heads that the class says it ignores.
    """
    resized = {name: (tuple(stored), tuple(due)) for name, stored, due in report["mismatched_keys"]}
    wrong = weights.misfit(report["missing_keys"], report["unexpected_keys"], resized)
    if wrong is not None:
        raise LoadError(f"its weights do not fit its config.json: they {wrong}")
    if report["error_msgs"]:
        raise LoadError(f"its weights do not load: {one_line(str(report['error_msgs'][0]), 150)}")
    # a folder with an adapter is refused before; one on the hub shows only now
    if getattr(model, "_hf_peft_config_loaded", False):
        raise LoadError(
            "it holds a low-rank adapter, not a model; "
            "merge it into its base first (peft: merge_and_unload)"
        )
    quantization = getattr(model.config, "quantization_config", None)
    if quantization is not None and getattr(model, "hf_quantizer", None) is None:
        raise LoadError(
            "its config.json names a quantization that is not known here: "
            f"{one_line(str(quantization), 100)}"
        )
    broken = weights.non_finite(tensors_of(model))
    if broken is not None:
        raise LoadError(
            f"tensor {one_line(broken, 100)} has values that are not finite "
            f"as {_short(model.state_dict()[broken].dtype)}"
        )


def _files(folder: Path, partial: bool) -> list[Path]:
    """The safetensors files that transformers reads; raises LoadError where an index names some
    that are gone.
    """
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if not index.is_file():
        return []
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        files = [folder / name for name in names]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise LoadError(
            f"{index.name} is no index of weights: "
            f"{type(error).__name__}: {one_line(message(error), 100)}"
        ) from error
    absent = [file.name for file in files if not file.is_file()]
    # they are still to be fetched, and some of the shards say nothing of the model's size
    if absent and partial:
        return []
    if absent:
        raise LoadError(
            f"{index.name} names {len(absent)} files that are not there "
            f"({one_line(', '.join(absent), 120)}); fetch them"
        )
    return files


def _tensors(file: Path) -> dict[str, tuple[str, list[int]]]:
    """Type and shape of every tensor of a safetensors file, by name; raises LoadError."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as tensors:
            # a slice tells type and shape and reads no values; the handle itself cannot be iterated
            slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118
            return {name: (part.get_dtype(), part.get_shape()) for name, part in slices.items()}
    except SafetensorError as error:
        raise LoadError(
            f"{one_line(file.name, 80)} is no whole safetensors file: "
            f"{one_line(message(error), 120)}"
        ) from error


def _nested(values: Any) -> Iterator[Mapping[str, Any]]:
    """A configuration and those inside it."""
    if isinstance(values, Mapping):
        yield values
        for inner in values.values():
            yield from _nested(inner)


def _short(dtype: torch.dtype) -> str:
    """The name of a type without its package."""
    return str(dtype).removeprefix("torch.")


def _available() -> int | None:
    """Bytes that can be had without swapping; None where the system does not say."""
    try:
        lines = MEMORY.read_text().splitlines()
    except OSError:
        return None
    sizes = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return sizes[0] * 1024 if sizes else None
