"""Student: a method with the module that is to learn; its sizes and first weights are checked
before memory is taken.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from prunebench.border.bounds import shown
from prunebench.border.text import message, one_line
from prunebench.learning.checkpoint import RunError, digest
from prunebench.models import Loaded
from prunebench.pruner import Facts, Pruner, Unsupported
from prunebench.registry import name_of, suggest
from prunebench.sites import Part
from prunebench.trained import FITTING, Trained, seeded

MOST_PARAMETERS = 500_000_000
"""Of a method's module: weights, gradients and the optimizer's two moments of as many take 8 GB."""

MOST_TENSORS = 5_000
"""How many tensors these may be: modules without end run out of time first."""

DRAWN = "drawn from the seed"
"""The origin of weights that are none of a folder's."""

MOST_SIZE = 1_000_000
"""The largest single size."""


@dataclass(frozen=True)
class Student:
    """A prepared method whose module takes gradients; `origin` is the digest of the weights it
    begins with.
    """

    pruner: Trained
    sizes: dict[str, Any]
    origin: str

    @property
    def name(self) -> str:
        """What the method is called."""
        return name_of(self.pruner)

    @property
    def module(self) -> nn.Module:
        """What learns."""
        assert self.pruner.module is not None
        return self.pruner.module


def make_student(
    pruner: Trained,
    loaded: Loaded,
    seed: int,
    sizes: Mapping[str, Any] | None = None,
    start: Path | None = None,
) -> Student:
    """The method made ready for the model, as in a sweep, with a module of its own choice of sizes,
    changed by `sizes`.

    The module's weights are drawn from `seed`, or are those of the folder `start`. Raises RunError
    for sizes and weights that cannot be, Unsupported where the model cannot serve the method.
    """
    method, name, facts = type(pruner), name_of(pruner), loaded.family.facts(loaded.model)
    if pruner.weights:
        raise RunError(
            f"{name}.weights is {shown(pruner.weights)}, but training makes weights: begin with others by start=FOLDER"
        )
    with blamed(name, "choosing sizes", method):
        usual = dict(method.sizes(facts))
    if start is None:
        chosen = _changed(usual, sizes or {})
        module = _fresh(method, name, chosen, seed)
    else:
        chosen, module = _read(method, name, start, sizes or {})
    _fit(name, facts, usual, chosen)
    module = module.float().to(loaded.model.device).train().requires_grad_(True)
    with blamed(name, "getting ready", method):
        # `prepared` as in a sweep, for a method may hold another one that has to know the model,
        # too
        ready = replace(pruner, module=module).prepared(facts).adapted(chosen)
        site = ready.site()
    if site.part is Part.LLM and site.layer >= facts.layers:
        model = facts.name or "this model"
        raise RunError(
            f"{name} prunes at {site}, but {model} has layers 0..{facts.layers - 1}: choose an earlier layer"
        )
    return Student(ready, chosen, DRAWN if start is None else digest(dict(module.state_dict())))


@contextmanager
def blamed(name: str, doing: str, method: type[Pruner]) -> Iterator[None]:
    """Whatever a method's own code raises, SystemExit too, becomes a RunError that says what it was
    doing, and where.

    Control-C passes, and so do errors that say enough by themselves.
    """
    try:
        yield
    except (KeyboardInterrupt, GeneratorExit, RunError, Unsupported):
        raise
    except BaseException as error:
        said = one_line(message(error), 110)
        hint = (
            "; a smaller batch= takes less memory"
            if "memory" in said or isinstance(error, MemoryError)
            else ""
        )
        reason = f"{type(error).__name__}: {said}"
        raise RunError(
            f"{name}: {doing} failed with {reason} ({_place(error, method)}){hint}"
        ) from error


def _place(error: BaseException, method: type[Pruner]) -> str:
    """The file and line to look at: the last in the method's own file, or the last of all."""
    frames = traceback.extract_tb(error.__traceback__)
    try:
        home = inspect.getfile(method)
    except TypeError:  # a class typed at a prompt
        home = ""
    own = [frame for frame in frames if frame.filename == home]
    last = (own or list(frames))[-1]
    return f"{Path(last.filename).name}, line {last.lineno}"


def _changed(usual: Mapping[str, Any], sizes: Mapping[str, Any]) -> dict[str, Any]:
    """The method's own sizes with those that were asked for, each of the same kind and range."""
    chosen = dict(usual)
    for key, value in sizes.items():
        if key not in usual:
            raise RunError(
                f"unknown size {shown(str(key), 40)}{suggest(str(key), usual)}; write sizes.KEY=value"
            )
        chosen[key] = _size(f"sizes.{key}", value, usual[key])
    return chosen


def _size(label: str, value: Any, usual: Any) -> Any:
    """`value` where it is of the kind of the `usual` one."""
    fault = f"{label} is {shown(value)}; the method's own choice is {shown(usual)}"
    if isinstance(usual, list | tuple):
        if not isinstance(value, list | tuple) or not usual or not len(value) == len(usual):
            raise RunError(f"{fault}, and it takes as many values")
        return [_size(label, part, usual[0]) for part in value]
    if isinstance(usual, float) and type(value) is int:
        value = float(value)
    if type(value) is not type(usual):
        raise RunError(f"{fault}, and it takes {type(usual).__name__}")
    if (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and not 0 <= value <= MOST_SIZE
    ):
        raise RunError(f"{fault}; sizes are from 0 to {MOST_SIZE:,}")
    return value


def _fresh(method: type[Trained], name: str, sizes: Mapping[str, Any], seed: int) -> nn.Module:
    """The module with drawn weights; it is built without memory first, to see how large it becomes."""
    with _counted(name):
        try:
            with torch.random.fork_rng(devices=[]), torch.device("meta"):
                method.build(sizes)
        except RunError:
            raise
        except Exception:
            # some modules cannot be built without memory: then the real one is counted as it grows
            pass
    with (
        _counted(name),
        blamed(name, f"building the module of sizes {shown(dict(sizes), 80)}", method),
    ):
        return seeded(method, sizes, seed)


@contextmanager
def _counted(name: str) -> Iterator[None]:
    """Stops the building of a module that grows beyond what can be trained."""
    count = tensors = 0

    def note(_module: nn.Module, _label: str, parameter: nn.Parameter | None) -> None:
        nonlocal count, tensors
        if parameter is None:
            return
        count, tensors = count + parameter.numel(), tensors + 1
        if count > MOST_PARAMETERS or tensors > MOST_TENSORS:
            raise RunError(
                f"sizes make a module of {name} of {count:,} parameters and more in {tensors:,} tensors; at most "
                f"{MOST_PARAMETERS:,} in {MOST_TENSORS:,} tensors can be trained: choose smaller sizes"
            )

    handle = register_module_parameter_registration_hook(note)
    try:
        yield
    finally:
        handle.remove()


def _read(
    method: type[Trained], name: str, start: Path, sizes: Mapping[str, Any]
) -> tuple[dict[str, Any], nn.Module]:
    """Sizes and module of a folder of weights."""
    label = f"start {one_line(str(start), 100)}"
    try:
        there = start.is_dir()
    except (OSError, ValueError):  # too long a name, or one with a zero byte
        there = False
    if not there:
        raise RunError(f"{label} is no folder; give one that training wrote, such as RUN/weights")
    with blamed(name, f"reading {label} (its weights? give a folder that training wrote)", method):
        chosen, module = method.read(start)
    for key, value in sizes.items():
        if key not in chosen or chosen[key] != value:
            there_is = shown(chosen.get(key))
            raise RunError(
                f"sizes.{one_line(str(key), 40)} is {shown(value)}, but {label} has {there_is}: leave it out"
            )
    for label_of, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise RunError(
                f"{label} holds values in {label_of} that are no numbers; give other weights"
            )
    return dict(chosen), module


def _fit(name: str, facts: Facts, usual: Mapping[str, Any], chosen: Mapping[str, Any]) -> None:
    """Refuse sizes that the model fixes otherwise."""
    for key in FITTING:
        if key in usual and chosen.get(key) != usual[key]:
            model = facts.name or "this model"
            raise RunError(
                f"{name}'s {key} is {shown(chosen.get(key))}, but that of {model} is {usual[key]}: leave it out, or fit it"
            )
