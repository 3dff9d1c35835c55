"""Trained: methods that bring weights, where these lie, and what such a method learns from."""

from __future__ import annotations

import importlib
import json
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from prunebench.border import weights
from prunebench.border.text import message, one_line
from prunebench.pruner import Facts, Pruner, Unsupported
from prunebench.registry import PACKAGE, card
from prunebench.tokens import VisualTokens

NONE = "none"
"""The form without weights, of methods that have one."""

RANDOM = "random"
"""Weights that are drawn, for looking at cost: what a method costs does not depend on them."""

CONFIG = "config.json"
STATE = "model.safetensors"

FITTING = ("layers", "width", "heads", "vision_width", "vision_blocks")
"""Sizes that are the model's: weights for others do not fit it. The others are a method's own
choice.
"""


class BrokenWeights(Unsupported):
    """Weights that cannot be read, or are none of the method's: a failure, for somebody can mend
    them.
    """


class NoWeights(Unsupported):
    """There are no weights for a model, and none were named."""


@dataclass(frozen=True)
class Example:
    """What there is to learn from one sample.

    `tokens` with the signals the method needs; `target` [N] 1.0 for tokens that show the evidence,
    0.0 for others; `answer_loss` the model's loss on the reference answer with the method's probe
    token in place, None without a probe.
    """

    tokens: VisualTokens
    target: Tensor
    answer_loss: Tensor | None = None


@dataclass(frozen=True)
class Trained(Pruner):
    """A method with weights; `weights` is a folder or a hub id, "" for those that belong to the
    model, or "random".

    A method that is `optional` has a form without weights, too: what "none" asks for, and "" gets
    where a model has none. `module` and `folder` are no settings: `prepared` fills them in, the
    module frozen and in float32, and where it was read.
    """

    optional: ClassVar[bool] = False
    weights: str = ""
    module: nn.Module | None = field(default=None, repr=False, compare=False)
    folder: Path | None = field(default=None, repr=False, compare=False)

    @classmethod
    @abstractmethod
    def sizes(cls, facts: Facts) -> dict[str, Any]:
        """The settings of `build` for a model; plain values, for they are written as JSON."""

    @classmethod
    @abstractmethod
    def build(cls, sizes: Mapping[str, Any]) -> nn.Module:
        """The module with fresh weights, drawn from torch's own generator."""

    @abstractmethod
    def loss(self, example: Example) -> tuple[Tensor, dict[str, float]]:
        """What training minimises, of `self.module`, which takes gradients then; and figures by
        name.
        """

    @classmethod
    def read(cls, folder: Path) -> tuple[dict[str, Any], nn.Module]:
        """The sizes and the module of a folder that `write` made; raises OSError, ValueError or
        RuntimeError.

        The file must hold exactly the module's tensors, which is known before any memory is taken
        for them.
        """
        stored = _stored(folder / STATE)
        sizes = _sizes(folder / CONFIG, stored)
        with torch.random.fork_rng(devices=[]):  # building draws weights, which are overwritten
            outline = _outline(cls, sizes, len(stored))
            misfit = None if outline is None else weights.compared(outline, stored)
            if misfit is not None:
                raise ValueError(
                    f"the weights in {STATE} do not fit the sizes in {CONFIG}: they {misfit}"
                )
            module = cls.build(sizes)
        module.load_state_dict(stored)
        return sizes, module

    @classmethod
    def write(
        cls, folder: Path, sizes: Mapping[str, Any], module: nn.Module, notes: Mapping[str, Any]
    ) -> None:
        """Write the module to a folder that exists; `notes` are what else belongs beside the sizes,
        such as how it was trained.
        """
        from safetensors.torch import save_file

        # safetensors refuses views with gaps
        state = {name: value.contiguous() for name, value in module.state_dict().items()}
        save_file(state, folder / STATE)
        (folder / STATE).chmod(0o644)  # safetensors writes files that only their owner can read
        content = {"sizes": dict(sizes), **notes}
        (folder / CONFIG).write_text(json.dumps(content, indent=2) + "\n")

    def adapted(self, sizes: Mapping[str, Any]) -> Self:
        """The method with the settings that its weights were trained for."""
        return self

    def prepared(self, facts: Facts) -> Self:
        if self.module is not None or (self.optional and self.weights == NONE):
            return self
        try:
            ready = _ready(type(self), self.weights, facts)
        except NoWeights:
            if self.optional:
                return self
            raise
        with _plainly(f"{card(type(self)).name} with the settings of its weights"):
            return replace(self.adapted(ready.sizes), module=ready.module, folder=ready.folder)


def seeded(method: type[Trained], sizes: Mapping[str, Any], seed: int) -> nn.Module:
    """The method's module with weights drawn from `seed`; torch's own generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return method.build(sizes)


def home(method: type[Pruner], model: str) -> Path:
    """Where the weights of a built-in method for a model lie, or would."""
    package = Path(importlib.import_module(PACKAGE).__path__[0])
    return package / "weights" / card(method).name / model


@dataclass(frozen=True, eq=False)
class _Ready:
    """A method's weights for a model; `folder` is None where they were drawn."""

    sizes: Mapping[str, Any]
    module: nn.Module
    folder: Path | None = None


def _ready(method: type[Trained], weights_name: str, facts: Facts) -> _Ready:
    """The weights that `weights=` names for a model, read again when their files change; raises
    Unsupported.
    """
    name = card(method).name
    if weights_name == RANDOM:
        with _plainly(f"{name} cannot draw weights"):
            return _drawn(method, facts)
    with _plainly(f"{name}'s weights cannot be had"):
        folder = _folder(method, weights_name, facts)
    with _plainly(f"{name}'s weights in {one_line(str(folder), 80)} cannot be read"):
        return _read(method, folder, facts, weights.stamp(folder))


@lru_cache(maxsize=32)
def _drawn(method: type[Trained], facts: Facts) -> _Ready:
    sizes = method.sizes(facts)
    return _Ready(sizes, _frozen(seeded(method, sizes, 0)))


# the stamp is there for the cache alone: files that changed are read anew
@lru_cache(maxsize=32)
def _read(method: type[Trained], folder: Path, facts: Facts, _stamp: weights.Stamp) -> _Ready:
    sizes, module = method.read(folder)
    if not isinstance(module, nn.Module) or not isinstance(sizes, Mapping):
        kinds = f"a {type(sizes).__name__} and a {type(module).__name__}"
        raise TypeError(f"read gave {kinds}; it gives the sizes and the module")
    _check_sizes(sizes, method.sizes(facts))
    empty = next((name for name, tensor in module.state_dict().items() if tensor.is_meta), None)
    if empty is not None:
        raise ValueError(f"tensor {one_line(empty, 80)} has no values")
    module = _frozen(module)
    broken = weights.non_finite(module.state_dict().items())
    if broken is not None:
        raise ValueError(f"tensor {one_line(broken, 80)} has values that are not finite")
    return _Ready(sizes, module, folder)


def _check_sizes(sizes: Mapping[str, Any], fitting: Mapping[str, Any]) -> None:
    """Raises ValueError for sizes of another kind than the method's own, and for those of another
    model.
    """
    for key in sizes.keys() & fitting.keys():
        value, own = sizes[key], fitting[key]
        kind = _kind(own)
        widens = type(value) is int and kind is float
        if _kind(value) != kind and not widens:
            shortened = one_line(repr(value), 40)
            raise ValueError(
                f"{one_line(key, 60)} is {shortened}; it is {kind.__name__} like {own!r}"
            )
        if key in FITTING and value != own:
            raise ValueError(f"they are for a model with {key} {value}; this one's is {own}")


def _kind(value: Any) -> type:
    return list if isinstance(value, tuple) else type(value)  # JSON has no tuples


def _frozen(module: nn.Module) -> nn.Module:
    return module.float().eval().requires_grad_(False)


@contextmanager
def _plainly(what: str) -> Iterator[None]:
    """Turns whatever a method's own code or files raise in the block into BrokenWeights, in one
    line that begins with `what`, so that this method alone stops.

    Lack of memory stays what it is, and so does a person's Ctrl-C; that a plug-in exits is an error
    of its own.
    """
    try:
        yield
    except (Unsupported, MemoryError, torch.OutOfMemoryError, KeyboardInterrupt):
        raise
    except BaseException as error:
        reason = message(error)
        if type(error) not in (OSError, ValueError, RuntimeError):
            reason = f"{type(error).__name__}: {reason}"
        raise BrokenWeights(one_line(f"{what}: {reason}")) from error


def _stored(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; raises OSError or ValueError."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not file.is_file():  # a pipe would be waited for
        raise FileNotFoundError(f"there is no file {file.name}")
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(
            f"{file.name} is no whole safetensors file: {one_line(message(error), 100)}"
        ) from error


def _sizes(file: Path, stored: Mapping[str, Tensor]) -> dict[str, Any]:
    """The sizes that stand in a config.json; raises OSError or ValueError."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file.name} is no JSON: {one_line(message(error), 100)}") from error
    sizes = content.get("sizes") if isinstance(content, dict) else None
    if not isinstance(sizes, dict):
        raise ValueError(
            f"{file.name} names no sizes; "
            "it holds an object with 'sizes', as prunebench train writes it"
        )
    # a module of any kind has at least as many values as its largest size; this bounds how long
    # building one takes
    count = sum(tensor.numel() for tensor in stored.values())
    most = max(1_000_000, count)
    for name, value in sizes.items():
        if isinstance(value, int) and value > most:
            raise ValueError(
                f"{file.name} says {one_line(name, 60)} is above {most:,}, "
                "more than the weights have values"
            )
    return sizes


def _outline(
    method: type[Trained], sizes: Mapping[str, Any], stored: int
) -> dict[str, Tensor] | None:
    """The tensors of the method's module without data; None where it needs data to be built.

    Raises ValueError once it has many more than are `stored`: sizes may ask for a million layers.
    """
    # some are made and thrown away while a module is put together
    most = 4 * stored + 1000
    count = 0

    def count_up(_module: nn.Module, _name: str, _parameter: nn.Parameter) -> None:
        nonlocal count
        count += 1
        if count > most:
            raise ValueError(
                f"the sizes in {CONFIG} ask for more than {most:,} tensors, and {stored} are stored"
            )

    hook = register_module_parameter_registration_hook(count_up)
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return dict(method.build(sizes).state_dict())
    except NotImplementedError:  # of torch, where `build` asks for values that a tensor lacks
        return None
    finally:
        hook.remove()


def _folder(method: type[Trained], weights_name: str, facts: Facts) -> Path:
    """Where the weights lie that `weights=` names, fetched from the hub where need be; raises
    NoWeights or Unsupported.
    """
    name = card(method).name
    if weights_name:
        folder = Path(weights_name).expanduser()
        return folder if folder.is_dir() else _fetched(name, weights_name)
    own = home(method, facts.name or "")
    if facts.name and own.is_dir():
        return own
    public = own.parent / "hub.json"
    hub_ids: dict[str, str] = json.loads(public.read_text()) if public.is_file() else {}
    if facts.name in hub_ids:
        return _fetched(name, hub_ids[facts.name])
    built_in = [folder.name for folder in own.parent.glob("*/")]
    served = ", ".join(sorted([*built_in, *hub_ids])) or "no model"
    raise NoWeights(
        f"{name} has no weights for {facts.name or 'a bare decoder'}; "
        f"there are some for {served}: train them (prunebench train {name} model=...), "
        "give a folder (weights=FOLDER), or look at cost alone (weights=random)"
    )


def _fetched(name: str, hub_id: str) -> Path:
    """The folder of a repository on the hub; raises Unsupported where it cannot be had."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id))
    except Exception as error:  # hub, network and name errors alike
        shortened, reason = one_line(hub_id, 80), one_line(message(error), 120)
        raise Unsupported(
            f"{name}: weights {shortened!r} are no folder "
            f"and could not be fetched from the hub ({reason})"
        ) from error
