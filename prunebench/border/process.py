"""Process: the settings of the whole process that a method leaves alone, and how each is read and
set again.
"""

from __future__ import annotations

import gc
import operator
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGHUP)

KERNELS = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")
"""Attention kernels by the names that models know them by."""

REGISTRIES = (
    ("transformers.modeling_utils", "ALL_ATTENTION_FUNCTIONS"),
    ("transformers.masking_utils", "ALL_MASK_ATTENTION_FUNCTIONS"),
)
"""Where transformers looks up what runs an attention, and what makes its mask."""


@dataclass(frozen=True)
class Setting:
    """One setting by its name in a message. `differ` tells whether two values of `getter` show a
    change; `setter` takes such a value.
    """

    name: str
    getter: Callable[[], Any]
    setter: Callable[[Any], Any]
    differ: Callable[[Any, Any], bool] = operator.ne

    def changed(self, before: Any) -> bool:
        """Whether the setting is another one now."""
        return self.differ(self.getter(), before)


def _modes() -> list[int]:
    """Everything that sees each torch function of this thread, but for the default device, which
    has its own entry.
    """
    stack = torch.overrides._get_current_function_mode_stack()
    return [id(mode) for mode in stack if type(mode).__name__ != "DeviceContext"]


def _set_modes(modes: list[int]) -> None:
    while len(_modes()) > len(modes):
        torch._C._pop_torch_function_stack()


def _deterministic() -> tuple[bool, bool]:
    warns_only = torch.is_deterministic_algorithms_warn_only_enabled()
    return torch.are_deterministic_algorithms_enabled(), warns_only


def _set_deterministic(state: tuple[bool, bool]) -> None:
    enabled, warns_only = state
    torch.use_deterministic_algorithms(enabled, warn_only=warns_only)


def _autocast() -> bool:
    return torch.is_autocast_enabled("cpu")


def _set_autocast(enabled: bool) -> None:
    torch.set_autocast_enabled("cpu", enabled)


def _flags() -> list[tuple[Any, str]]:
    """The switches of torch's backends: the objects that have them, and their names."""
    backends: Any = torch.backends
    return [
        (backends.cudnn, "enabled"),
        (backends.cudnn, "benchmark"),
        (backends.cudnn, "deterministic"),
        (backends.cudnn, "allow_tf32"),
        (backends.cuda.matmul, "allow_tf32"),
        (backends.mkldnn, "enabled"),
    ]


def _backends() -> list[bool]:
    return [getattr(backend, name) for backend, name in _flags()]


def _set_backends(values: list[bool]) -> None:
    for (backend, name), value in zip(_flags(), values, strict=True):
        setattr(backend, name, value)


def _registries() -> dict[str, Any]:
    """Those of transformers that are loaded, by module."""
    loaded = {module: name for module, name in REGISTRIES if module in sys.modules}
    return {module: getattr(sys.modules[module], name) for module, name in loaded.items()}


def _attention_functions() -> dict[str, dict[str, Any]]:
    functions = {}
    for module, registry in _registries().items():
        functions[module] = {name: registry.get(name) for name in KERNELS}
    return functions


def _other_functions(now: dict[str, Any], before: dict[str, Any]) -> bool:
    """Whether a kernel changed; of a module that was loaded since then nothing is known."""
    return any(now.get(module) != functions for module, functions in before.items())


def _set_attention_functions(before: dict[str, dict[str, Any]]) -> None:
    registries = _registries()
    for module, functions in before.items():
        registry = registries[module]
        for name, function in functions.items():
            if function is not None:
                # for models made from now on, and for the registry that this process reads
                type(registry).register(name, function)
                registry[name] = function


def _folder() -> str:
    try:
        return os.getcwd()
    except OSError:
        return ""  # deleted under our feet


def _umask() -> int:
    mask = os.umask(0o077)  # it can only be read by setting it
    os.umask(mask)
    return mask


def _set_gc(enabled: bool) -> None:
    if enabled:
        gc.enable()
    else:
        gc.disable()


def _handlers() -> list[Any]:
    return [signal.getsignal(number) for number in SIGNALS]


def _set_handlers(handlers: list[Any]) -> None:
    for number, handler in zip(SIGNALS, handlers, strict=True):
        signal.signal(number, handler)


def _streams() -> tuple[Any, ...]:
    return sys.stdin, sys.stdout, sys.stderr


def _set_streams(streams: tuple[Any, ...]) -> None:
    sys.stdin, sys.stdout, sys.stderr = streams


def _leave(_value: Any) -> None:
    """For what cannot be set again: it stays as it is, and is named by every comparison."""


SETTINGS = (
    Setting("the modes of torch functions", _modes, _set_modes),
    Setting("torch's default device", torch.get_default_device, torch.set_default_device),
    Setting("torch's default dtype", torch.get_default_dtype, torch.set_default_dtype),
    Setting("torch's number of threads", torch.get_num_threads, torch.set_num_threads),
    Setting("torch's gradient mode", torch.is_grad_enabled, torch._C._set_grad_enabled),
    Setting("torch's inference mode", torch.is_inference_mode_enabled, _leave),
    Setting("torch's deterministic algorithms", _deterministic, _set_deterministic),
    Setting(
        "torch's precision of float32 products",
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
    ),
    Setting("torch's autocast", _autocast, _set_autocast),
    Setting("torch's backends", _backends, _set_backends),
    Setting(
        "the registered attention functions",
        _attention_functions,
        _set_attention_functions,
        _other_functions,
    ),
    Setting("the working directory", _folder, os.chdir),
    Setting("the umask", _umask, os.umask),
    Setting("the recursion limit", sys.getrecursionlimit, sys.setrecursionlimit),
    Setting("the garbage collector", gc.isenabled, _set_gc),
    Setting("the signal handlers", _handlers, _set_handlers),
    Setting("the standard streams", _streams, _set_streams),
)
"""Every setting that is watched, in the order in which changes are named."""
