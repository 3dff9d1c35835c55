"""Model state: hooks, parts, settings and contents of a model at one moment, to compare and to put
back.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from prunebench.border import hooks

FUNCTIONS = frozenset({FunctionType, MethodType, BuiltinFunctionType})
"""Types of functions; none of them can be inherited from."""

PLAIN = (str, int, float, bool, type(None))
"""Kinds of settings whose values are compared."""


class ModelState:
    """A model as it was when this was made."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.modules = [_ModuleState(name, module) for name, module in model.named_modules()]
        unique = {id(config): config for config in _configs(model)}  # parts share them
        self.configs = [(config, _settings_of(config)) for config in unique.values()]
        self._contents = _Contents(model)
        self.sums = checksums(self._contents.tensors())

    def changes(self) -> list[str]:
        """What is different in the model, in words."""
        # every module is asked after every step: the quick way first
        touched = [module for module in self.modules if not module.is_untouched()]
        # mostly it is an attribute, such as what models note of a prompt, and no tensor of its own
        if any(module.holds_others() for module in touched):
            self._contents.forget()
        changes: list[str] = []
        for module in touched:
            changes += module.changes()
        if any(_settings_of(config) != settings for config, settings in self.configs):
            changes.append("the model's configuration")
        # other parts have other weights: nothing is gained by saying that, too
        if not any("parts" in change for change in changes):
            names = _differing(self.sums, checksums(self._contents.tensors()))
            if names:
                listed = ", ".join(names[:3])
                changes.append(f"the model's weights ({listed})")
        return changes

    def restore(self, reload: Callable[[], nn.Module] | None) -> None:
        """Put everything back; weights where `reload` gives a fresh copy of the model."""
        for module in self.modules:
            module.restore()
        for config, settings in self.configs:
            for name, value in settings.items():
                if getattr(config, name, None) != value:
                    setattr(config, name, value)
        self._contents.forget()
        overwritten = _differing(checksums(self._contents.tensors()), self.sums)
        if overwritten and reload is not None:
            fresh = reload().state_dict()
            with torch.no_grad():
                for name, tensor in self.model.state_dict().items():
                    tensor.data.copy_(fresh[name])


class _Contents:
    """The parameters and lasting buffers of a model by name, looked up once for as long as its
    modules hold the same.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._known: dict[str, Tensor] | None = None
        self._in_doubt = False

    def tensors(self) -> dict[str, Tensor]:
        """The tensors themselves."""
        if self._known is not None:
            return self._known
        tensors = dict(self.model.state_dict(keep_vars=True))
        own_ids = {id(tensor) for tensor in chain(self.model.parameters(), self.model.buffers())}
        # what a module makes for whoever asks, as quantized ones do, says nothing the next time
        is_held = all(id(tensor) in own_ids for tensor in tensors.values())
        # after a change they are looked up once more, for it may have been taken back since
        if is_held and not self._in_doubt:
            self._known = tensors
        self._in_doubt = False
        return tensors

    def forget(self) -> None:
        """Some module holds something else than before."""
        self._known, self._in_doubt = None, True


class _ModuleState:
    """One module of the model: its hooks, and what it is made of."""

    def __init__(self, name: str, module: nn.Module) -> None:
        self.label = name or "the model"
        self.module = module
        self.hooks = {kind: dict(getattr(module, kind)) for kind in hooks.OF_MODULE}
        self.parts = _parts(module)
        self.functions = _functions(module)
        self.training = module.training
        self._watch()

    def changes(self) -> list[str]:
        """What is different, in words."""
        changes = []
        if any(hooks.changed_keys(*pair) for pair in self._hooks_now_and_before()):
            changes.append(f"hooks on {self.label}")
        before = self.parts, self.functions, self.training
        now = _parts(self.module), _functions(self.module), self.module.training
        if now != before:
            changes.append(f"parts of {self.label}")
        if not changes:
            self._watch()
        return changes

    def _watch(self) -> None:
        """Note every single thing that the module holds: attributes, parts, tensors, hooks.

        Many may change without harm. The dicts are attributes themselves, so that another dict in
        the place of one is noticed as well.
        """
        module = self.module
        kept = [getattr(module, kind) for kind in hooks.OF_MODULE]
        self._dicts = [
            vars(module),
            module._modules,
            module._parameters,
            module._buffers,
            *kept,
        ]
        self._values = list(_values(self._dicts))
        self._contents = self._contents_now()

    def _contents_now(self) -> list[Any]:
        """Its submodules, parameters and buffers."""
        module = self.module
        return list(_values([module._modules, module._parameters, module._buffers]))

    def holds_others(self) -> bool:
        """Whether any of these is another one, or stands elsewhere."""
        present = self._contents_now()
        if len(present) != len(self._contents):
            return True
        return not all(map(operator.is_, present, self._contents))

    def is_untouched(self) -> bool:
        """Whether it holds the very same things as when they were noted, in the same order."""
        if sum(map(len, self._dicts)) != len(self._values):
            return False
        return all(map(operator.is_, _values(self._dicts), self._values))

    def restore(self) -> None:
        """Put back hooks, functions that hide those of the class, and the mode. A submodule that
        was replaced stays replaced, and is named again.
        """
        for present, before in self._hooks_now_and_before():
            hooks.put_back(present, before)
        for name in _functions(self.module).keys() - self.functions.keys():
            delattr(self.module, name)
        for name, value in self.functions.items():
            setattr(self.module, name, value)
        # not `train()`, which would set the submodules as well
        self.module.training = self.training

    def _hooks_now_and_before(self) -> list[tuple[hooks.Hooks, hooks.Hooks]]:
        return [(getattr(self.module, kind), before) for kind, before in self.hooks.items()]


def checksums(contents: Mapping[str, Tensor]) -> dict[str, str]:
    """By name, how often every tensor was written to in place, and its sum.

    Torch's count misses what is written behind its back (`weight.data`), which the sum sees unless
    the order alone changed.
    """
    counts: dict[str, int] = {}
    # by type, so that each is read together: on a GPU every single number that is read waits for
    # all that was asked before
    sums: dict[torch.dtype, list[Tensor]] = {torch.float32: [], torch.int64: []}
    names: dict[torch.dtype, list[str]] = {torch.float32: [], torch.int64: []}
    for name, tensor in contents.items():
        values = tensor.detach()
        # the sum's own type: in half precision it would swallow small changes
        wide = torch.float32 if values.is_floating_point() else torch.int64
        # tensors made in inference mode have no count
        counts[name] = -1 if values.is_inference() else tensor._version
        sums[wide].append(values.sum(dtype=wide))
        names[wide].append(name)
    texts: dict[str, str] = {}
    for wide, totals in sums.items():
        for name, total in zip(names[wide], _numbers(totals), strict=True):
            texts[name] = f"{counts[name]} {total!r}"
    return texts


def _numbers(scalars: list[Tensor]) -> list[float]:
    """The values of scalars of one type, which may lie on several devices."""
    if not scalars:
        return []
    device = scalars[0].device
    if device.type == "cpu":
        # nothing is waited for there, and one tensor of all of them takes longer
        return [float(scalar) for scalar in scalars]
    if any(scalar.device != device for scalar in scalars):
        scalars = [scalar.to(device) for scalar in scalars]
    return list(torch.stack(scalars).double().tolist())


def _differing(sums: dict[str, str], others: dict[str, str]) -> list[str]:
    """The names of `sums` that have another value among the others, or none."""
    return [name for name, total in sums.items() if others.get(name) != total]


def _values(dicts: list[dict[str, Any]]) -> Iterator[Any]:
    """All values of all the dicts."""
    return chain.from_iterable(map(dict.values, dicts))


def _parts(module: nn.Module) -> tuple[dict[str, int], dict[str, int]]:
    """The module's submodules and parameters by identity."""
    modules, weights = module._modules, module._parameters
    # zip and map, for every module is asked after every step
    return (
        dict(zip(modules, map(id, modules.values()), strict=True)),
        dict(zip(weights, map(id, weights.values()), strict=True)),
    )


def _functions(module: nn.Module) -> dict[str, Any]:
    """Functions that hide those of the module's class."""
    attributes = vars(module)
    if FUNCTIONS.isdisjoint(map(type, attributes.values())):  # nearly always, and quickly said
        return {}
    return {name: value for name, value in attributes.items() if type(value) in FUNCTIONS}


def _configs(model: nn.Module) -> list[Any]:
    """The configurations of a model and of its parts, and its generation settings."""
    configs = [getattr(module, "config", None) for module in model.modules()]
    configs.append(getattr(model, "generation_config", None))
    return [config for config in configs if config is not None]


def _settings_of(config: Any) -> dict[str, Any]:
    """The plain settings of a configuration."""
    return {name: value for name, value in vars(config).items() if isinstance(value, PLAIN)}
