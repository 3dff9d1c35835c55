"""Origin: what makes a training run this run, so that a folder never goes on with another one."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from prunebench.checkpoint import digest
from prunebench.engine.clip import load_clip
from prunebench.models import Loaded
from prunebench.pruner import Pruner, Unsupported
from prunebench.registry import name_of, settings
from prunebench.training.data import TrainingData
from prunebench.training.schedule import Schedule


def run_identity(loaded: Loaded, data: TrainingData, schedule: Schedule, more: Mapping[str, Any]) -> dict[str, Any]:
    """What every run is made of: the model with its weights, the data, the schedule; and `more` of its own, as plain data."""
    return {
        **more,
        "model": loaded.id,
        "model_weights": loaded.revision,
        "dtype": str(loaded.model.dtype).removeprefix("torch."),
        "plan": asdict(schedule),
        "data": data.identity(),
    }


def method_identity(pruner: Pruner, clip: str | None) -> dict[str, Any]:
    """A prepared method: name, code, settings, its adapter and the CLIP that it asks; folders by what they hold."""
    return {
        "method": name_of(pruner),
        "source": _source(pruner),
        "settings": {name: _without_path(value) for name, value in settings(pruner).items()},
        "adapter": None if pruner.adapter is None else folder_digest(pruner.adapter),
        "clip": None if clip is None else _clip_digest(clip),
    }


def folder_digest(folder: Path) -> str:
    """sha256 over names and contents of all files below a folder; raises Unsupported where there is none to read."""
    state = sha256()
    try:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            content = path.read_bytes()
            state.update(f"{path.relative_to(folder)} {len(content)}\n".encode("utf-8", "surrogateescape"))
            state.update(content)
    except OSError as error:
        raise Unsupported(f"{folder} cannot be read: {error.strerror}") from error
    return state.hexdigest()


def _clip_digest(name: str) -> str:
    return digest(dict(load_clip(name, torch.device("cpu"), torch.float32).model.state_dict()))


def _source(pruner: Pruner) -> str:
    """sha256 over the files of the method, of what it inherits from, and of methods that it holds."""
    state = sha256()
    for kind in dict.fromkeys(_kinds(pruner)):
        state.update(f"{kind.__qualname__}\n".encode())
        try:
            state.update(Path(inspect.getfile(kind)).read_bytes())
        except (OSError, TypeError):  # typed at a prompt, or gone since: the class's name has to do
            continue
    return state.hexdigest()


def _kinds(pruner: Pruner) -> Iterator[type]:
    for kind in type(pruner).__mro__:
        if issubclass(kind, Pruner):
            yield kind
    for held in fields(pruner):
        value = getattr(pruner, held.name)
        if isinstance(value, Pruner):
            yield from _kinds(value)


def _without_path(value: Any) -> Any:
    """A folder by its name, for where it lies is one machine's."""
    try:
        return Path(value).name if isinstance(value, str) and value and Path(value).is_dir() else value
    except OSError:  # too long to be a path
        return value
