"""Guard: what all methods share, noted before one of them runs and compared behind it.

A method is a pure function of what it is shown. One that sets torch's default type, hooks a module,
patches a library or writes into the model's weights would change the numbers of every method behind
it; it is named, and the state is put back.
"""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_load_state_dict_pre_hooks",
)
"""Where a module keeps its hooks."""

FUNCTIONS = (FunctionType, MethodType, BuiltinFunctionType)

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGHUP)

KERNELS = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")
"""Attention kernels by the names that models know them by."""

LIBRARIES = ("torch", "torch.nn.functional", "torch.linalg", "math", "random", "numpy", "builtins")
"""Modules whose functions every method may call and none may replace."""

CLASSES = (Tensor, nn.Module, nn.Linear, nn.LayerNorm)
"""Classes whose functions none may replace."""

ALWAYS = (
    "prunebench",
    "_prunebench",
    "transformers.cache_utils",
    "transformers.generation",
    "transformers.integrations",
    "transformers.masking_utils",
    "transformers.modeling_utils",
)
"""Prefixes of modules, those of this package and of the library that runs the models, that are
watched as well.
"""


class Guard:
    """The shared state at one moment; `owner` is the module of the method that may change what is
    its own.
    """

    def __init__(self, model: nn.Module | None = None) -> None:
        self._settings = {name: read() for name, (read, _) in _SETTINGS.items()}
        self._environment = dict(os.environ)
        self._hooks = {name: dict(hooks) for name, hooks in _global_hooks()}
        self._kernels = _attention_functions()
        of_model = (
            () if model is None else sorted({type(module).__module__ for module in model.modules()})
        )
        self._functions = list(_functions(of_model))
        self._model = None if model is None else _ModelState(model)

    def changes(self, owner: str = "") -> list[str]:
        """What is different now, in words; empty where nothing is. Functions of the module `owner`
        are not compared.
        """
        changed = [name for name, (read, _) in _SETTINGS.items() if read() != self._settings[name]]
        for name, hooks in _global_hooks():
            if _foreign(hooks, self._hooks[name]):
                changed.append(f"torch's hooks on every module ({name.strip('_')})")
        # of a library that was loaded since then nothing is known to compare with
        kernels = _attention_functions()
        if any(kernels.get(place) != functions for place, functions in self._kernels.items()):
            changed.append("the registered attention functions")
        for variable, value in self._environment.items():
            if os.environ.get(variable) != value:
                changed.append(f"the environment variable {variable}")
        changed += [f"{label}.{name}" for label, names, name, value in self._replaced(owner)]
        if self._model is not None:
            changed += self._model.changes()
        return changed

    def restore(self, reload: Callable[[], nn.Module] | None = None) -> None:
        """Put everything back. `reload` gives a fresh copy of the model, for weights that were
        written over.
        """
        for name, (read, write) in _SETTINGS.items():
            if read() != self._settings[name]:
                with suppress(
                    Exception
                ):  # what cannot be set again is named by the next comparison
                    write(self._settings[name])
        for name, hooks in _global_hooks():
            _put_hooks_back(hooks, self._hooks[name])
        _set_attention_functions(self._kernels)
        for variable, value in self._environment.items():
            os.environ[variable] = value
        for _, holder, name, value in self._replaced(""):
            setattr(holder, name, value)
        if self._model is not None:
            self._model.restore(reload)

    def _replaced(self, owner: str) -> Iterator[tuple[str, Any, str, Any]]:
        """Functions that are no longer what they were: label and object that holds them, name, and
        what they were.
        """
        for label, holder, name, value in self._functions:
            now = vars(holder).get(name)
            if (
                now is not value
                and not _same_function(now, value)
                and not (owner and label.startswith(owner))
            ):
                yield label, holder, name, value


class RandomState:
    """The state of every random number generator that a method may draw from; a draw is no fault,
    but must not go further.
    """

    def __init__(self) -> None:
        self._torch = torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        self._python = random.getstate()
        numpy = sys.modules.get("numpy")
        self._numpy = None if numpy is None else numpy.random.get_state()

    @property
    def drawn(self) -> bool:
        """Whether somebody has drawn from torch's or Python's own generator since."""
        return (
            not torch.equal(torch.get_rng_state(), self._torch) or random.getstate() != self._python
        )

    def restore(self) -> None:
        """Put every generator back."""
        torch.set_rng_state(self._torch)
        if self._cuda:
            torch.cuda.set_rng_state_all(self._cuda)
        random.setstate(self._python)
        if self._numpy is not None:
            sys.modules["numpy"].random.set_state(self._numpy)


class _ModelState:
    """Hooks, parts, settings and contents of a model."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.modules = list(model.named_modules())
        self.hooks = [
            {name: dict(getattr(module, name)) for name in HOOKS} for _, module in self.modules
        ]
        self.parts = [_parts(module) for _, module in self.modules]
        self.configs = {id(config): (config, _settings_of(config)) for config in _configs(model)}
        self.sums = checksums(model)

    def changes(self) -> list[str]:
        """What is different in the model, in words."""
        changed = []
        for (name, module), hooks, parts in zip(self.modules, self.hooks, self.parts, strict=True):
            label = name or "the model"
            if any(_foreign(getattr(module, kind), hooks[kind]) for kind in HOOKS):
                changed.append(f"hooks on {label}")
            if _parts(module) != parts:
                changed.append(f"parts of {label}")
        if any(_settings_of(config) != settings for config, settings in self.configs.values()):
            changed.append("the model's configuration")
        if not changed or not any("parts" in change for change in changed):
            now = checksums(self.model)
            written = [name for name, value in self.sums.items() if now.get(name) != value]
            if written:
                changed.append(f"the model's weights ({', '.join(written[:3])})")
        return changed

    def restore(self, reload: Callable[[], nn.Module] | None) -> None:
        for (_, module), hooks, parts in zip(self.modules, self.hooks, self.parts, strict=True):
            for kind in HOOKS:
                _put_hooks_back(getattr(module, kind), hooks[kind])
            _put_back(module, parts)
        for config, settings in self.configs.values():
            for name, value in settings.items():
                if getattr(config, name, None) != value:
                    setattr(config, name, value)
        written = [
            name for name, value in checksums(self.model).items() if self.sums.get(name) != value
        ]
        if written and reload is not None:
            fresh = reload().state_dict()
            with torch.no_grad():
                for name, tensor in self.model.state_dict().items():
                    tensor.data.copy_(fresh[name])


def _foreign(hooks: dict[Any, Any], before: dict[Any, Any]) -> list[Any]:
    """The keys of hooks that came or went; a library's own may come, for it installs some when they
    are first needed.
    """
    came = [key for key, hook in hooks.items() if key not in before and not _of_library(hook)]
    return came + [key for key in before if key not in hooks]


def _put_hooks_back(hooks: dict[Any, Any], before: dict[Any, Any]) -> None:
    for key in _foreign(hooks, before):
        hooks.pop(key, None)
    for key, hook in before.items():
        hooks.setdefault(key, hook)


def _of_library(hook: Any) -> bool:
    """Whether a function is torch's or transformers' own."""
    while isinstance(hook, partial):
        hook = hook.func
    module = getattr(hook, "__module__", None) or type(hook).__module__
    return str(module).partition(".")[0] in ("torch", "transformers")


def checksums(model: nn.Module) -> dict[str, str]:
    """By name, how often every parameter and lasting buffer was written to in place, and its sum.

    Torch's count misses what is written behind its back (`weight.data`), which the sum sees unless
    the order alone changed.
    """
    names, counts, sums = [], [], []
    for name, tensor in model.state_dict(keep_vars=True).items():
        values = tensor.detach()
        names.append(name)
        counts.append(-1 if values.is_inference() else tensor._version)
        sums.append(values.sum(dtype=torch.float32 if values.is_floating_point() else torch.int64))
    # read together: on a GPU every single number that is read waits for all that was asked before
    totals = (
        torch.stack([value.double().to(sums[0].device) for value in sums]).tolist() if sums else []
    )
    return {
        name: f"{count} {total!r}" for name, count, total in zip(names, counts, totals, strict=True)
    }


def _parts(module: nn.Module) -> dict[str, Any]:
    """The module's parameters and submodules by identity, and functions that hide those of its
    class.
    """
    own: dict[str, Any] = {f"module {name}": id(child) for name, child in module._modules.items()}
    own |= {f"parameter {name}": id(value) for name, value in module._parameters.items()}
    own |= {
        f"function {name}": value
        for name, value in vars(module).items()
        if isinstance(value, FUNCTIONS)
    }
    return {**own, "training": module.training}


def _put_back(module: nn.Module, parts: dict[str, Any]) -> None:
    """Functions that hide those of the class, and the mode; a replaced submodule stays replaced and
    is named again.
    """
    before = {
        name.removeprefix("function "): value
        for name, value in parts.items()
        if name.startswith("function ")
    }
    for name in [
        name
        for name, value in vars(module).items()
        if isinstance(value, FUNCTIONS) and name not in before
    ]:
        delattr(module, name)
    for name, value in before.items():
        setattr(module, name, value)
    module.training = parts["training"]


def _configs(model: nn.Module) -> list[Any]:
    """The configurations of a model and of its parts, and its generation settings."""
    configs = [getattr(module, "config", None) for module in model.modules()]
    configs.append(getattr(model, "generation_config", None))
    return [config for config in configs if config is not None]


def _settings_of(config: Any) -> dict[str, Any]:
    """The plain settings of a configuration."""
    kinds = (str, int, float, bool, type(None))
    return {name: value for name, value in vars(config).items() if isinstance(value, kinds)}


def _global_hooks() -> Iterator[tuple[str, dict[Any, Any]]]:
    """Torch's hooks on all modules, by name."""
    for name, value in vars(torch.nn.modules.module).items():
        if name.startswith("_global_") and isinstance(value, dict):
            yield name, value


def _functions(more: Sequence[str]) -> Iterator[tuple[str, Any, str, Any]]:
    """Every function that is watched, in `more` modules too: label and object that holds it, its
    name, the function.
    """
    for label, holder in _holders((*ALWAYS, *more)):
        for name, value in list(vars(holder).items()):
            if callable(value) or isinstance(value, property | classmethod | staticmethod):
                yield label, holder, name, value


def _holders(prefixes: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    for kind in CLASSES:
        yield kind.__qualname__, kind
    for label, module in list(sys.modules.items()):
        if isinstance(module, ModuleType) and (label in LIBRARIES or label.startswith(prefixes)):
            yield label, module
            if label.startswith(prefixes):
                yield from _classes(label, module)


def _same_function(one: Any, other: Any) -> bool:
    """Whether both go by one full name: torch wraps some of its own functions when its compiler is
    imported.
    """
    names = [
        (getattr(f, "__module__", None), getattr(f, "__qualname__", None)) for f in (one, other)
    ]
    return None not in names[0] and names[0] == names[1]


def _classes(label: str, module: ModuleType) -> Iterable[tuple[str, Any]]:
    """The classes that a module defines."""
    for name, value in list(vars(module).items()):
        if isinstance(value, type) and value.__module__ == label:
            yield f"{label}.{name}", value


def _umask() -> int:
    now = os.umask(0o077)
    os.umask(now)
    return now


def _folder() -> str:
    try:
        return os.getcwd()
    except OSError:
        return ""  # deleted under our feet


def _set_gc(enabled: bool) -> None:
    if enabled:
        gc.enable()
    else:
        gc.disable()


def _set_signals(handlers: list[Any]) -> None:
    for number, handler in zip(SIGNALS, handlers, strict=True):
        signal.signal(number, handler)


def _set_streams(streams: tuple[Any, ...]) -> None:
    sys.stdin, sys.stdout, sys.stderr = streams


def _deterministic(state: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(state[0], warn_only=state[1])


def _registries() -> dict[str, Any]:
    """Where transformers looks up what runs an attention or makes its mask, by module; of those
    modules that are loaded.
    """
    places = {
        "transformers.modeling_utils": "ALL_ATTENTION_FUNCTIONS",
        "transformers.masking_utils": "ALL_MASK_ATTENTION_FUNCTIONS",
    }
    loaded = {module: name for module, name in places.items() if module in sys.modules}
    return {module: getattr(sys.modules[module], name) for module, name in loaded.items()}


def _attention_functions() -> dict[str, dict[str, Any]]:
    """What the registries hold for the kernels that models ask for, by module."""
    functions = {}
    for module, registry in _registries().items():
        functions[module] = {name: registry.get(name) for name in KERNELS}
    return functions


def _set_attention_functions(before: dict[str, dict[str, Any]]) -> None:
    registries = _registries()
    for module, functions in before.items():
        registry = registries[module]
        for name, function in functions.items():
            if function is not None and registry.get(name) is not function:
                type(registry).register(name, function)
                registry[name] = function


def _backends() -> list[bool]:
    backends = torch.backends
    cudnn = (
        backends.cudnn.enabled,
        backends.cudnn.benchmark,
        backends.cudnn.deterministic,
        backends.cudnn.allow_tf32,
    )
    return [*cudnn, backends.cuda.matmul.allow_tf32, backends.mkldnn.enabled]


def _set_backends(flags: list[bool]) -> None:
    backends: Any = torch.backends
    (
        backends.cudnn.enabled,
        backends.cudnn.benchmark,
        backends.cudnn.deterministic,
        backends.cudnn.allow_tf32,
    ) = flags[:4]
    backends.cuda.matmul.allow_tf32, backends.mkldnn.enabled = flags[4:]


def _modes() -> list[int]:
    """Everything that sees each torch function of this thread, but for the default device, which
    has its own entry.
    """
    stack = torch.overrides._get_current_function_mode_stack()  # type: ignore[no-untyped-call]
    return [id(mode) for mode in stack if type(mode).__name__ != "DeviceContext"]


def _set_modes(modes: list[int]) -> None:
    while len(_modes()) > len(modes):
        torch._C._pop_torch_function_stack()


_SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "the modes of torch functions": (_modes, _set_modes),
    "torch's default device": (torch.get_default_device, torch.set_default_device),
    "torch's default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "torch's number of threads": (torch.get_num_threads, torch.set_num_threads),
    "torch's gradient mode": (torch.is_grad_enabled, torch._C._set_grad_enabled),
    "torch's inference mode": (torch.is_inference_mode_enabled, lambda _: None),
    "torch's deterministic algorithms": (
        lambda: (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        _deterministic,
    ),
    "torch's precision of float32 products": (
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
    ),
    "torch's autocast": (
        lambda: torch.is_autocast_enabled("cpu"),
        lambda value: torch.set_autocast_enabled("cpu", value),
    ),
    "torch's backends": (_backends, _set_backends),
    "the working directory": (_folder, os.chdir),
    "the umask": (_umask, os.umask),
    "the recursion limit": (sys.getrecursionlimit, sys.setrecursionlimit),
    "the garbage collector": (gc.isenabled, _set_gc),
    "the signal handlers": (lambda: [signal.getsignal(number) for number in SIGNALS], _set_signals),
    "the standard streams": (lambda: (sys.stdin, sys.stdout, sys.stderr), _set_streams),
}
"""Settings of the whole process by name: how each is read, and how it is set again."""
