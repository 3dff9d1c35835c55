"""Hooks: which functions torch runs around modules, and how those that somebody added or took away
are told from a library's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

Hooks = dict[Any, Any]
"""Functions by torch's own keys, as a module keeps them."""

OF_MODULE = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_load_state_dict_pre_hooks",
)
"""Where a module keeps its hooks."""


def of_every_module() -> Iterator[tuple[str, Hooks]]:
    """Torch's hooks on all modules, by name."""
    for name, value in vars(torch.nn.modules.module).items():
        if name.startswith("_global_") and isinstance(value, dict):
            yield name, value


def changed_keys(hooks: Hooks, before: Hooks) -> list[Any]:
    """The keys of hooks that came or went. A library's own may come, for it installs some when they
    are first needed.
    """
    if hooks.keys() == before.keys():  # nearly always, and asked of every module
        return []
    new = [key for key in hooks if key not in before]
    foreign = [key for key in new if not _is_of_library(hooks[key])]
    return foreign + [key for key in before if key not in hooks]


def put_back(hooks: Hooks, before: Hooks) -> None:
    """Remove what came, and add what went."""
    for key in changed_keys(hooks, before):
        hooks.pop(key, None)
    for key, hook in before.items():
        hooks.setdefault(key, hook)


def _is_of_library(hook: Any) -> bool:
    """Whether a function is torch's or transformers' own."""
    while isinstance(hook, partial):
        hook = hook.func
    module = getattr(hook, "__module__", None) or type(hook).__module__
    return str(module).partition(".")[0] in ("torch", "transformers")
