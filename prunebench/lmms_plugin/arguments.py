"""Arguments: what `--model_args` says, as the grid of a sweep that would ask the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from prunebench.registry import suggest
from prunebench.run import grid as grids
from prunebench.run.backend import ModelSetup
from prunebench.run.cell import Variant
from prunebench.run.grid import Grid
from prunebench.run.keys import GridError, hint_of, plainest
from prunebench.run.plain import short, short_key
from prunebench.study.record import BASELINE

OWN = ("pretrained", "method", "budget")
"""Arguments that a grid has by other names, or several of."""

SETTING = "method_"
"""What a method's own settings begin with."""

LMMS_EVAL = {
    "batch": "--batch_size",
    "device": "--device",
    "limit": "--limit",
    "tasks": "--tasks",
    "out": "--output_path",
}
"""Keys of a grid that lmms-eval has an option of its own for."""


@dataclass(frozen=True)
class Asking:
    """What the arguments come to: the grid with its one method, and the samples of a batch."""

    grid: Grid
    variant: Variant
    batch: int


def asking_of(arguments: Mapping[str, Any]) -> Asking:
    """Check the arguments of a model; raises GridError in one line.

    `pretrained` is the model, `method` the method and `budget` its one budget; `method_NAME` is a
    setting of the method's own, and what decides a model's answers in a grid goes by its name
    there.
    """
    content: dict[str, Any] = {"controls": False, "cost": False}
    entry: dict[str, Any] = {}
    for name, value in arguments.items():
        if name.startswith(SETTING):
            entry[name.removeprefix(SETTING)] = _whole(value)
        elif name in _grid_keys():
            content[name] = _fitting(name, value)
        elif name not in (*OWN, "batch_size", "device"):
            raise GridError(_unknown(name))
    for name in OWN[:2]:
        if not isinstance(arguments.get(name), str):
            raise GridError(
                f"{name} is {short(arguments.get(name))}; write --model_args "
                "pretrained=MODEL,method=NAME,budget=0.25"
            )
    content["models"] = [arguments["pretrained"]]
    content["methods"] = [{**entry, "name": arguments["method"]}]
    content["budgets"] = [_budget(arguments)]
    content["device"] = _device(arguments.get("device"))
    grid = grids.build(content)
    (variant,) = grid.variants()
    return Asking(grid, variant, _batch(arguments.get("batch_size", 1)))


def _grid_keys() -> list[str]:
    """The keys of a grid that are arguments, too: what a model is loaded from and is shown."""
    deciding = {one.name for one in fields(ModelSetup)} - {"model", "device"}
    keys = {one.name for one in fields(Grid)}
    return sorted((deciding & keys) | {"max_image_pixels"})


def _unknown(name: str) -> str:
    """One line for an argument that there is not."""
    if name in LMMS_EVAL:
        return f"{name} is no argument of the model; lmms-eval's own option is {LMMS_EVAL[name]}"
    if name == "max_batch_size":
        return "max_batch_size is for batches of automatic size; write --batch_size with a number"
    names = [*OWN, *_grid_keys(), f"{SETTING}NAME"]
    return f"unknown argument {short_key(name)}{suggest(name[:100], names)}"


def _budget(arguments: Mapping[str, Any]) -> str:
    """The budget as a grid has it; the unpruned model needs none."""
    budget = arguments.get("budget")
    if budget is None and arguments["method"] == BASELINE:
        return "1.0"
    if isinstance(budget, bool) or not isinstance(budget, str | int | float):
        raise GridError(
            f"budget is {short(budget)}; write budget=0.25 for a share of the visual tokens, "
            "budget=64 for a count"
        )
    return str(budget)


def _device(device: Any) -> str:
    """The kind of device, which is all that a grid says."""
    return "auto" if device is None else str(device).partition(":")[0]


def _batch(size: Any) -> int:
    """Samples that run together."""
    text = str(size)
    if not text.isdecimal() or not 1 <= int(text) <= 4096:
        raise GridError(f"batch_size is {short(size)}; it is a number from 1 to 4096")
    return int(text)


def _fitting(name: str, value: Any) -> Any:
    """A value as the grid's key takes it: lmms-eval makes a number of whatever looks like one."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and plainest(hint_of(Grid, name)) is str:
        return str(value)
    return _whole(value)


def _whole(value: Any) -> Any:
    """A number without a fraction as an int, which lmms-eval makes of those above zero alone."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
