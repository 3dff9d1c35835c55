"""Elsewhere: tensors that say they are on another device and hold their values here, so that what
would stop on a GPU stops on a machine that has none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from prunebench.signals import GIVEN, Signal
from prunebench.tokens import VisualTokens

AWAY = torch.device("meta")
"""What such a tensor names as its device: one that torch knows on every machine."""

aten = torch.ops.aten

COPIES = frozenset({aten.copy_, aten._to_copy})
"""What goes from one device to the other."""

INDEXED = frozenset({aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_})
"""What takes places on the CPU for values elsewhere, but not the other way round."""


AT_HOME = GIVEN | {Signal.VISUAL_PLACES, Signal.TEXT_PLACES}
"""Signals that the engine shows on the CPU, wherever the model is; `index` and what follows from
the layout are there, too.
"""


PRODUCTS = frozenset({torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.nn.functional.linear})


INDEXING = frozenset({Tensor.__getitem__, Tensor.__setitem__})


class OtherDevice(RuntimeError):
    """Tensors of two devices met in one function."""


class Away(Tensor):
    """A tensor elsewhere; `here` holds its values."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> Away:
        away: Away = Tensor._make_wrapper_subclass(
            cls,
            here.size(),
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device=AWAY,
        )
        away.here = here
        return away

    def tolist(self) -> Any:
        return self.here.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if not force:
            raise OtherDevice("numpy takes tensors of the CPU alone")
        return self.here.numpy()

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Away({self.here!r})"

    @classmethod
    def __torch_dispatch__(cls, *_: Any, **__: Any) -> Any:
        raise OtherDevice("a tensor elsewhere is used outside of `elsewhere()`")


class _Devices(TorchDispatchMode):
    """Computes on what tensors hold, once they are where the function needs them."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, Tensor)]
        is_away = any(isinstance(one, Away) for one in tensors)
        packet = function.overloadpacket
        if is_away and packet not in COPIES:
            _check(function, args, tensors)
        # a function that names a device puts its result there
        target = kwargs.get("device")
        if target is not None:
            is_away = torch.device(target) == AWAY
            kwargs["device"] = torch.device("cpu")
        elif packet is aten.copy_:
            is_away = isinstance(args[0], Away)
        result = function(*tree_map(_here, args), **tree_map(_here, kwargs))
        if function._schema.is_mutable and args and isinstance(args[0], Tensor):
            return args[0]
        return tree_map(_away, result) if is_away else result


class _Makers(TorchFunctionMode):
    """Makes tensors of lists here first: torch itself would leave one elsewhere without values."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if function in PRODUCTS and args[0].dim() == 1 and args[1].dim() == 2:
            # torch would take an axis of the product away in place
            return function(args[0][None], *args[1:], **kwargs).squeeze(0)
        if function in INDEXING:
            return function(args[0], _places(args[1]), *args[2:])
        if function not in (torch.tensor, torch.as_tensor, Tensor.new_tensor):
            return function(*args, **kwargs)
        device = kwargs.pop("device", None)
        if function is Tensor.new_tensor:
            device = args[0].device if device is None else device
            function, args = torch.tensor, args[1:]
        tensor: Tensor = function(*args, **kwargs)
        return tensor if device is None else tensor.to(device)


def _check(function: Any, args: Any, tensors: list[Tensor]) -> None:
    """Raise OtherDevice where a kernel on a GPU would refuse."""
    at_home = [one for one in tensors if not isinstance(one, Away) and one.dim() > 0]
    if function.overloadpacket in INDEXED and isinstance(args[0], Away):
        # places may lie on the CPU, values may not
        at_home = [one for one in args[2:3] if not isinstance(one, Away) and one.dim() > 0]
    if at_home:
        shapes = ", ".join(str(list(one.shape)) for one in at_home)
        raise OtherDevice(
            f"{function.overloadpacket.__name__} was given tensors of two devices, of which those "
            f"of shape {shapes} are on the CPU: make them with device=tokens.features.device"
        )


def _places(index: Any) -> Any:
    """An index whose lists are tensors, as torch makes them of lists."""
    if isinstance(index, tuple):
        return tuple(map(_places, index))
    if isinstance(index, list):
        return torch.tensor(index, dtype=None if index else torch.int64)
    return index


def _here(value: Any) -> Any:
    return value.here if isinstance(value, Away) else value


def _away(value: Any) -> Any:
    return Away(value) if isinstance(value, Tensor) and not isinstance(value, Away) else value


@contextmanager
def elsewhere() -> Iterator[Callable[[Tensor], Tensor]]:
    """Gives what brings a tensor elsewhere; within, functions of both devices raise OtherDevice."""
    with torch.no_grad(), _Makers(), _Devices():  # type: ignore[no-untyped-call]
        yield Away


def moved(tokens: VisualTokens, away: Callable[[Tensor], Tensor]) -> VisualTokens:
    """The tokens as they are shown where the model is elsewhere."""
    signals: dict[Signal, Any] = {}
    for signal, value in tokens.signals.items():
        is_away = isinstance(value, Tensor) and signal not in AT_HOME
        signals[signal] = away(value) if is_away else value
    return replace(tokens, features=away(tokens.features), signals=signals)
