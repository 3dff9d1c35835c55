"""Student: a method with the module that is to learn; its sizes and first weights are checked
before memory is taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from prunebench.border.bounds import shown
from prunebench.border.text import one_line
from prunebench.learning.checkpoint import digest
from prunebench.learning.folder import RunError
from prunebench.models import Loaded
from prunebench.pruner import Facts
from prunebench.registry import name_of, suggest
from prunebench.sites import Part
from prunebench.trained import FITTING, Trained, seeded
from prunebench.training.blame import blamed

MOST_PARAMETERS = 500_000_000
"""Of a method's module: weights, gradients and the optimizer's two moments of as many take 8 GB."""

MOST_TENSORS = 5_000
"""How many tensors these may be: modules without end run out of time first."""

Sizes = Mapping[str, Any]
"""Sizes of a method's module, by the method's own names."""

DRAWN = "drawn from the seed"
"""The origin of weights that are none of a folder's."""

MOST_SIZE = 1_000_000
"""The largest single size."""


@dataclass(frozen=True)
class Start:
    """What a module begins as.

    `sizes` are changes of the method's own choice of sizes, `folder` holds weights to begin with,
    which bring their sizes; without it they are drawn.
    """

    sizes: Sizes = field(default_factory=dict)
    folder: Path | None = None


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


def make_student(pruner: Trained, loaded: Loaded, seed: int, start: Start) -> Student:
    """The method made ready for the model, as in a sweep, with a module that takes gradients.

    Weights that are drawn are drawn from `seed`. Raises RunError for sizes and weights that cannot
    be, Unsupported where the model cannot serve the method.
    """
    method = type(pruner)
    name = name_of(pruner)
    facts = loaded.family.facts(loaded.model)
    if pruner.weights:
        reason = f"{name}.weights is {shown(pruner.weights)}, but training makes weights"
        raise RunError(f"{reason}: begin with others by start=FOLDER")
    with blamed(name, "choosing sizes", method):
        usual_sizes = dict(method.sizes(facts))
    if start.folder is None:
        sizes = _changed(usual_sizes, start.sizes)
        module = _fresh(method, name, sizes, seed)
    else:
        sizes, module = _read(method, name, start.folder, start.sizes)
    _fit(name, facts, usual_sizes, sizes)
    module = module.float().to(loaded.model.device).train().requires_grad_(True)
    with blamed(name, "getting ready", method):
        # `prepared` as in a sweep, for a method may hold another one that has to know the model
        ready = replace(pruner, module=module).prepared(facts).adapted(sizes)
        site = ready.site()
    behind = site.part is Part.LLM and site.layer >= facts.layers
    if behind:
        layers = f"{facts.name or 'this model'} has layers 0..{facts.layers - 1}"
        raise RunError(f"{name} prunes at {site}, but {layers}: choose an earlier layer")
    origin = DRAWN if start.folder is None else digest(dict(module.state_dict()))
    return Student(ready, sizes, origin)


def _changed(usual: Sizes, changes: Sizes) -> dict[str, Any]:
    """The method's own sizes with those that were asked for, each of the same kind and range."""
    sizes = dict(usual)
    for key, value in changes.items():
        if key not in usual:
            near = suggest(str(key), usual)
            raise RunError(f"unknown size {shown(str(key), 40)}{near}; write sizes.KEY=value")
        sizes[key] = _size(f"sizes.{key}", value, usual[key])
    return sizes


def _size(label: str, value: Any, usual: Any) -> Any:
    """`value` where it is of the kind of the `usual` one."""
    fault = f"{label} is {shown(value)}; the method's own choice is {shown(usual)}"
    if isinstance(usual, list | tuple):
        is_list = isinstance(value, list | tuple)
        if not is_list or not usual or len(value) != len(usual):
            raise RunError(f"{fault}, and it takes as many values")
        return [_size(label, part, usual[0]) for part in value]
    if isinstance(usual, float) and type(value) is int:
        value = float(value)
    # by exact type: to isinstance True is an int
    if type(value) is not type(usual):
        raise RunError(f"{fault}, and it takes {type(usual).__name__}")
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and not 0 <= value <= MOST_SIZE:
        raise RunError(f"{fault}; sizes are from 0 to {MOST_SIZE:,}")
    return value


def _fresh(method: type[Trained], name: str, sizes: Sizes, seed: int) -> nn.Module:
    """The module with drawn weights.

    It is built without memory first, to see how large it becomes.
    """
    with _counted(name):
        try:
            with torch.random.fork_rng(devices=[]), torch.device("meta"):
                method.build(sizes)
        except RunError:
            raise
        except Exception:
            # some modules cannot be built without memory: then the real one is counted as it grows
            pass
    doing = f"building the module of sizes {shown(dict(sizes), 80)}"
    with _counted(name), blamed(name, doing, method):
        return seeded(method, sizes, seed)


@contextmanager
def _counted(name: str) -> Iterator[None]:
    """Stops the building of a module that grows beyond what can be trained."""
    count = tensors = 0
    most = f"at most {MOST_PARAMETERS:,} in {MOST_TENSORS:,} tensors can be trained"

    def note(_module: nn.Module, _label: str, parameter: nn.Parameter | None) -> None:
        nonlocal count, tensors
        if parameter is None:
            return
        count, tensors = count + parameter.numel(), tensors + 1
        if count > MOST_PARAMETERS or tensors > MOST_TENSORS:
            size = f"{count:,} parameters and more in {tensors:,} tensors"
            raise RunError(f"sizes make a module of {name} of {size}; {most}: choose smaller sizes")

    # a hook on all modules: only so are the parameters of parts seen while the whole is built
    handle = register_module_parameter_registration_hook(note)
    try:
        yield
    finally:
        handle.remove()


def _read(
    method: type[Trained], name: str, folder: Path, sizes: Sizes
) -> tuple[dict[str, Any], nn.Module]:
    """Sizes and module of a folder of weights; raises RunError where `sizes` are others."""
    label = f"start {one_line(str(folder), 100)}"
    try:
        there = folder.is_dir()
    except (OSError, ValueError):  # too long a name, or one with a zero byte
        there = False
    if not there:
        raise RunError(f"{label} is no folder; give one that training wrote, such as RUN/weights")
    with blamed(name, f"reading {label} (its weights? give a folder that training wrote)", method):
        own_sizes, module = method.read(folder)
    for key, value in sizes.items():
        agrees = key in own_sizes and own_sizes[key] == value
        if not agrees:
            what = f"sizes.{one_line(str(key), 40)} is {shown(value)}"
            own_size = shown(own_sizes.get(key))
            raise RunError(f"{what}, but {label} has {own_size}: leave it out")
    for weight, tensor in module.state_dict().items():
        if not tensor.is_floating_point():
            continue
        if not bool(tensor.isfinite().all()):
            raise RunError(
                f"{label} holds values in {weight} that are no numbers; give other weights"
            )
    return dict(own_sizes), module


def _fit(name: str, facts: Facts, usual: Sizes, sizes: Sizes) -> None:
    """Refuse sizes that the model fixes otherwise."""
    for key in FITTING:
        if key in usual and sizes.get(key) != usual[key]:
            model = facts.name or "this model"
            size = shown(sizes.get(key))
            difference = f"{size}, but that of {model} is {usual[key]}"
            raise RunError(f"{name}'s {key} is {difference}: leave it out, or fit it")
