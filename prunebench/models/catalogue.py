"""Catalogue: every family, every short name, and what a name stands for."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from inspect import isabstract
from pathlib import Path
from types import ModuleType

from torch import nn

from prunebench.border.text import message, one_line
from prunebench.models.base import Family, Unsupported
from prunebench.models.errors import LoadError
from prunebench.registry import suggest
from prunebench.testbed import MODELS

PACKAGE = "prunebench.models"


@cache
def families() -> tuple[Family, ...]:
    """One instance of every family; a family is one file in this package."""
    instances: list[Family] = []
    for info in pkgutil.iter_modules(importlib.import_module(PACKAGE).__path__):
        module = importlib.import_module(f"{PACKAGE}.{info.name}")
        instances += [kind() for kind in _families_in(module)]
    return tuple(instances)


def family_of(model: nn.Module) -> Family:
    """The family of the model; raises Unsupported where there is none."""
    config = getattr(model, "config", None)
    return family_of_type(str(getattr(config, "model_type", type(model).__name__)))


def family_of_type(model_type: str) -> Family:
    """The family of a configuration's `model_type`; raises Unsupported where there is none."""
    types: list[str] = []
    for family in families():
        if model_type in family.model_types:
            return family
        types += family.model_types
    raise Unsupported(
        f"no family for model type {one_line(model_type, 60)!r}; "
        f"families: {', '.join(sorted(types))}"
    )


def aliases() -> dict[str, str]:
    """Every short name: embedded models with their folders, public checkpoints with their hub
    ids.
    """
    sources = {name: str(folder) for name, folder in MODELS.items()}
    for family in families():
        sources.update(family.aliases)
    return sources


def source_of(name: str) -> str:
    """What `from_pretrained` takes for a name: the hub's id of an alias, an id, or a folder. Raises
    LoadError where the name is none of these.
    """
    sources = aliases()
    if name in sources:
        return sources[name]
    folder = _folder_of(name)
    if folder is not None:
        return folder
    if name.count("/") == 1 and _is_id(name):
        return name
    raise LoadError(
        f"unknown model {one_line(name, 80)!r}{suggest(name, sources, '')}; "
        "give a short name (`prunebench list models`), a hub id or a folder"
    )


def _families_in(module: ModuleType) -> list[type[Family]]:
    """The families that a file defines: not those it imports, nor bases that several share."""
    kinds: list[type[Family]] = []
    for kind in vars(module).values():
        if not isinstance(kind, type) or not issubclass(kind, Family) or isabstract(kind):
            continue
        # a bare decoder is of no model type: nothing that is loaded is one
        if kind.__module__ == module.__name__ and kind.model_types:
            kinds.append(kind)
    return kinds


def _folder_of(name: str) -> str | None:
    """The folder of a model that `name` leads to; None where there is nothing of that name. Raises
    LoadError for a file, and for a folder that holds no model.
    """
    text = one_line(name, 80)
    try:
        path = Path(name).expanduser()
        # a question about a path can itself be refused: no permission, a name too long, a NUL in it
        is_folder = path.is_dir()
        exists = is_folder or path.exists()
        is_model = is_folder and (path / "config.json").is_file()
    except (OSError, ValueError, RuntimeError) as error:
        raise LoadError(
            f"model {text!r} cannot be looked at: {one_line(message(error), 120)}"
        ) from error
    if is_model:
        return str(path)
    if not exists or not name:  # an empty name would be the working directory
        return None
    reason = "the folder holds no config.json" if is_folder else "that is no folder"
    raise LoadError(f"model {text}: {reason}; give a folder that save_pretrained wrote")


def _is_id(name: str) -> bool:
    """Whether the hub would take the name for that of a repository."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True
