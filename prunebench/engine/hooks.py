"""Hooks that serve the module they were put on, and no copy of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import MethodType
from typing import Any
from weakref import ref

from torch import Tensor, nn

Work = Callable[..., Any]


class Hook:
    """A function on a module's hook list; copies of the module get one that does nothing.

    `copy.deepcopy` takes hooks along. One that closed over its session would run that session, and
    with it the original model, whenever the copy is called.
    """

    def __init__(self, work: Work) -> None:
        self._work = work

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._work(*args, **kwargs)

    def __reduce__(self) -> tuple[Callable[[], Work], tuple[()]]:
        return _idle, ()


class _Before(Hook):
    """One in front of a module, whose function need not know it."""

    def __call__(self, _module: Any, args: Any, kwargs: Any) -> Any:
        return self._work(args, kwargs)


class _After(Hook):
    """One behind a module."""

    def __call__(self, _module: Any, args: Any, output: Any) -> Any:
        return self._work(args, output)


@dataclass(frozen=True)
class Run:
    """One run of a module: what it was given and what it put out."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any

    @property
    def entering(self) -> Tensor:
        """Its hidden states, the first argument."""
        hidden: Tensor = self.args[0] if self.args else self.kwargs["hidden_states"]
        return hidden

    @property
    def leaving(self) -> Tensor:
        """What became of these; it may put out more."""
        hidden: Tensor = self.output[0] if isinstance(self.output, tuple) else self.output
        return hidden


class _Around(Hook):
    """One behind a module, which also sees what went in."""

    def __call__(self, _module: Any, args: Any, kwargs: Any, output: Any) -> None:
        self._work(Run(args, kwargs, output))


class Overheard:
    """A model's method with a listener in front of it; a copy of the model gets its own method
    back.
    """

    def __init__(self, model: nn.Module, name: str, listen: Callable[..., Any]) -> None:
        self._model, self._name, self._stock, self._listen = (
            ref(model),
            name,
            getattr(model, name),
            listen,
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._listen(self._stock, *args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        # deepcopy notes the new module before it copies what hangs on it
        twin = memo.get(id(self._model()))
        return self._stock if twin is None else MethodType(getattr(type(twin), self._name), twin)


def before(undo: ExitStack, module: nn.Module, work: Callable[[Any, dict[str, Any]], Any]) -> None:
    """Call `work(args, kwargs)` before the module, until `undo` closes."""
    hook = _Before(work)
    undo.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)


def after(
    undo: ExitStack, module: nn.Module, work: Callable[[Any, Any], Any], always: bool = False
) -> None:
    """Call `work(args, output)` behind the module, until `undo` closes; `always` also where the
    module failed.
    """
    hook = _After(work)
    undo.callback(module.register_forward_hook(hook, always_call=always).remove)


def around(undo: ExitStack, module: nn.Module, work: Callable[[Run], None]) -> None:
    """Call `work` with every run of the module that has not failed, until `undo` closes."""
    hook = _Around(work)
    undo.callback(module.register_forward_hook(hook, with_kwargs=True).remove)


@contextmanager
def overheard(model: nn.Module, name: str, listen: Callable[..., Any]) -> Iterator[None]:
    """Call `listen(stock, ...)` wherever the model's method of that name is called; `stock` is the
    method itself.
    """
    # what hangs on the instance; the class's own method comes back by itself
    before_that = vars(model).get(name)
    setattr(model, name, Overheard(model, name, listen))
    try:
        yield
    finally:
        if before_that is None:
            delattr(model, name)
        else:
            setattr(model, name, before_that)


def nothing(*_args: Any, **_kwargs: Any) -> None:
    """What a hook of a copy does."""


def _idle() -> Work:
    return nothing
