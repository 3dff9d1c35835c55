"""Origin: what makes a training run this run, so that a folder never goes on with another one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch

from prunebench.engine.clip import load_clip
from prunebench.identity import folder_digest, source_digest
from prunebench.learning.schedule import Schedule
from prunebench.models import Loaded
from prunebench.pruner import Pruner, Unsupported
from prunebench.registry import name_of, settings
from prunebench.training.lesson import TrainingData


def run_identity(
    loaded: Loaded, data: TrainingData, schedule: Schedule, more: Mapping[str, Any]
) -> dict[str, Any]:
    """What every run is made of: the model with its weights, the data, the schedule; and `more` of
    its own, as plain data.
    """
    return {
        **more,
        "model": loaded.id,
        "model_weights": loaded.revision,
        "dtype": str(loaded.model.dtype).removeprefix("torch."),
        "schedule": asdict(schedule),
        "data": data.identity(),
    }


def method_identity(pruner: Pruner, clip: str | None) -> dict[str, Any]:
    """A prepared method: name, code, settings, its adapter and the CLIP that it asks; folders by
    what they hold.
    """
    lora = pruner.reads.lora
    return {
        "method": name_of(pruner),
        "source": _sources(pruner),
        "settings": {name: _without_path(value) for name, value in settings(pruner).items()},
        "lora": None if lora is None else _lora_digest(lora),
        "clip": None if clip is None else _clip_digest(clip),
    }


def _lora_digest(folder: Path) -> str:
    """A hash of an adapter's files; raises Unsupported where they cannot be read."""
    try:
        return folder_digest(folder)
    except OSError as error:
        raise Unsupported(f"{folder} cannot be read: {error.strerror}") from error


def _clip_digest(name: str) -> str:
    """The digest of a CLIP's weights, which do not depend on where and how they are held."""
    return load_clip(name, torch.device("cpu"), torch.float32).digest


def _sources(pruner: Pruner) -> list[str]:
    """Hashes of the code of the method and of those that it holds."""
    sources = [source_digest(type(pruner))]
    for field in fields(pruner):
        value = getattr(pruner, field.name)
        if isinstance(value, Pruner):
            sources += _sources(value)
    return sources


def _without_path(value: Any) -> Any:
    """A folder by its name, for where it lies is one machine's."""
    try:
        if isinstance(value, str) and value and Path(value).is_dir():
            return Path(value).name
    except OSError:  # too long to be a path
        pass
    return value
