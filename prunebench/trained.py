"""Trained: methods that bring weights, where these lie, and what such a method learns from."""

from __future__ import annotations

import importlib
import json
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from prunebench.pruner import Facts, Pruner, Unsupported
from prunebench.registry import PACKAGE, card
from prunebench.tokens import VisualTokens

NONE = "none"
"""The form without weights, of methods that have one."""

RANDOM = "random"
"""Weights that are drawn, for looking at cost: what a method costs does not depend on them."""

CONFIG = "config.json"
STATE = "model.safetensors"


class NoWeights(Unsupported):
    """There are no weights for a model, and none were named."""


@dataclass(frozen=True)
class Example:
    """What there is to learn from one sample.

    `tokens` with the signals the method needs; `target` [N] 1.0 for tokens that show the evidence, 0.0 for others;
    `answer_loss` the model's loss on the reference answer with the method's probe token in place, None without a probe.
    """

    tokens: VisualTokens
    target: Tensor
    answer_loss: Tensor | None = None


@dataclass(frozen=True)
class Trained(Pruner):
    """A method with weights; `weights` is a folder or a hub id, "" for those that belong to the model, or "random".

    A method that is `optional` has a form without weights, too: what "none" asks for, and "" gets where a model has none.
    `module` and `folder` are no settings: `prepared` fills them in, the module frozen and in float32, and where it was read.
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
        """What training minimises, of `self.module`, which takes gradients then; and figures by name."""

    @classmethod
    def read(cls, folder: Path) -> tuple[dict[str, Any], nn.Module]:
        """The sizes and the module of a folder that `write` made; raises OSError, ValueError or RuntimeError."""
        from safetensors.torch import load_file

        sizes = dict(json.loads((folder / CONFIG).read_text())["sizes"])
        module = cls.build(sizes)
        module.load_state_dict(load_file(folder / STATE))
        return sizes, module

    @classmethod
    def write(cls, folder: Path, sizes: Mapping[str, Any], module: nn.Module, told: Mapping[str, Any]) -> None:
        """Write the module to a folder that exists; `told` is what else is known, such as how it was trained."""
        from safetensors.torch import save_file

        save_file({name: value.contiguous() for name, value in module.state_dict().items()}, folder / STATE)
        (folder / STATE).chmod(0o644)  # safetensors writes files that only their owner can read
        (folder / CONFIG).write_text(json.dumps({"sizes": dict(sizes), **told}, indent=2) + "\n")

    def adapted(self, sizes: Mapping[str, Any]) -> Self:
        """The method with the settings that its weights were trained for."""
        return self

    def prepared(self, facts: Facts) -> Self:
        if self.module is not None or (self.optional and self.weights == NONE):
            return self
        try:
            sizes, module, folder = _loaded(type(self), self.weights, facts)
        except NoWeights:
            if self.optional:
                return self
            raise
        return replace(self.adapted(sizes), module=module, folder=folder)


def seeded(method: type[Trained], sizes: Mapping[str, Any], seed: int) -> nn.Module:
    """The method's module with weights drawn from `seed`; torch's own generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return method.build(sizes)


def home(method: type[Pruner], model: str) -> Path:
    """Where the weights of a built-in method for a model lie, or would."""
    package = Path(importlib.import_module(PACKAGE).__path__[0])
    return package / "weights" / card(method).name / model


@lru_cache(maxsize=32)
def _loaded(method: type[Trained], weights: str, facts: Facts) -> tuple[dict[str, Any], nn.Module, Path | None]:
    name = card(method).name
    if weights == RANDOM:
        sizes = method.sizes(facts)
        return sizes, seeded(method, sizes, 0).eval().requires_grad_(False), None
    folder = _folder(method, weights, facts)
    try:
        sizes, module = method.read(folder)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise Unsupported(f"{name}'s weights in {folder} cannot be read: {line}") from error
    fitting = method.sizes(facts)
    for key in ("layers", "width", "heads", "vision_width"):
        if key in sizes and key in fitting and sizes[key] != fitting[key]:
            raise Unsupported(
                f"{name}'s weights in {folder} are for a model with {key} {sizes[key]}; this one's is {fitting[key]}"
            )
    return sizes, module.float().eval().requires_grad_(False), folder


def _folder(method: type[Trained], weights: str, facts: Facts) -> Path:
    name = card(method).name
    if weights:
        folder = Path(weights)
        return folder if folder.is_dir() else _fetched(name, weights)
    own = home(method, facts.name or "")
    if facts.name and own.is_dir():
        return own
    public = own.parent / "hub.json"
    known = json.loads(public.read_text()) if public.is_file() else {}
    if facts.name in known:
        return _fetched(name, known[facts.name])
    have = sorted([*(folder.name for folder in own.parent.glob("*/")), *known])
    raise NoWeights(
        f"{name} has no weights for {facts.name or 'a bare decoder'}; there are some for {', '.join(have) or 'no model'}: "
        f"train them (prunebench train {name} model=...), give a folder (weights=FOLDER), or look at cost alone (weights=random)"
    )


def _fetched(name: str, hub_id: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id))
    except Exception as error:  # hub, network and name errors alike
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise Unsupported(f"{name}: weights {hub_id!r} are no folder and could not be fetched from the hub ({line})") from error
