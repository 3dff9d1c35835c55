"""Wrappers: the transformers model inside a peft, compiled or parallel one, which is where hooks
have to go.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from prunebench.engine.stream import EngineError

DEEPEST = 8
"""No model is wrapped so often; a longer chain leads back to itself."""


def chain_of(model: nn.Module) -> list[nn.Module]:
    """The model's wrappers from the outermost on, and the transformers model last.

    Raises EngineError where calls would pass by the hooks: parts compiled in place, replicas on
    several GPUs.
    """
    chain = [model]
    while len(chain) < DEEPEST:
        inner = _inside(chain[-1])
        if inner is None or inner is chain[-1]:
            break
        chain.append(inner)
    _check_compiled(chain[-1])
    return chain


def compiled(module: nn.Module) -> bool:
    """Whether torch.compile made this module or compiled it in place."""
    return "_orig_mod" in module._modules or "_compiled_call_impl" in module.__dict__


def _inside(wrapper: Any) -> nn.Module | None:
    """The model that a wrapper of a known shape holds; None where it is no wrapper."""
    if "_orig_mod" in getattr(wrapper, "_modules", {}):
        return wrapper._orig_mod  # type: ignore[no-any-return]
    base = getattr(type(wrapper), "get_base_model", None)
    if base is not None:
        return base(wrapper)  # type: ignore[no-any-return]
    if hasattr(wrapper, "config"):
        return None
    inner = getattr(wrapper, "module", None)
    if not isinstance(inner, nn.Module):
        return None
    if len(getattr(wrapper, "device_ids", None) or ()) > 1:
        kind = type(wrapper).__name__
        raise EngineError(
            f"{kind} copies the model to several GPUs, where no hook goes along; use its module: "
            "prune(model.module, ...)"
        )
    return inner


def _check_compiled(model: nn.Module) -> None:
    """Compiled code does not look at hooks that came later, so parts of it would run unpruned."""
    waiting = [model]
    while waiting:  # by hand, for every session asks, and named_modules takes ten times as long
        part = waiting.pop()
        if compiled(part):
            name = next(name for name, other in model.named_modules() if other is part)
            where = f"{name} of the model" if name else "the model"
            raise EngineError(
                f"{where} was compiled in place, and compiled code runs past the hooks of "
                "prune(...); load the model without torch.compile"
            )
        waiting += [inner for inner in part._modules.values() if inner is not None]
