"""Models: aliases of public checkpoints, loading, and the adapter of a loaded model."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from functools import cache
from inspect import isabstract
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from prunebench.identity import weights_digest
from prunebench.models.base import KNOWN_GOOD, Adapter, Unsupported
from prunebench.registry import suggest
from prunebench.testbed import MODELS as EMBEDDED

DEFAULT = "tiny-qwen2.5-vl"

Weights = Literal["pretrained", "random"]


class LoadError(ValueError):
    """A model that cannot be found, fetched or read."""


@dataclass(frozen=True)
class Loaded:
    """A model ready to run: `id` is the hub's, or a local folder's name; `revision` the hub's commit, or the weights' hash."""

    name: str
    id: str
    model: Any
    processor: Any
    adapter: Adapter
    revision: str


@cache
def adapters() -> tuple[Adapter, ...]:
    """One instance of every family; a family is one file in this package."""
    found = []
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        found += [
            kind()
            for kind in vars(module).values()
            if isinstance(kind, type)
            and issubclass(kind, Adapter)
            and not isabstract(kind)
            and kind.__module__ == module.__name__
        ]
    return tuple(found)


def aliases() -> dict[str, str]:
    """Every short name: embedded models with their folders, public checkpoints with their hub ids."""
    public = {alias: target for adapter in adapters() for alias, target in adapter.aliases.items()}
    return {**{name: str(path) for name, path in EMBEDDED.items()}, **public}


def adapter_of(model: nn.Module) -> Adapter:
    """The adapter of the model's family; raises Unsupported where there is none."""
    return _adapter(str(getattr(getattr(model, "config", None), "model_type", type(model).__name__)))


def load(
    name: str,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    attention: str = "sdpa",
    weights: Weights = "pretrained",
    seed: int = 0,
    revision: str | None = None,
) -> Loaded:
    """Load an alias, a hub id or a local folder through stock transformers.

    `weights="random"` builds the configuration with seeded random weights and fetches none. Raises LoadError in one line
    that says what could not be had and what to do, Unsupported where the family has no adapter.
    """
    import transformers

    auto: Any = transformers  # its auto classes are untyped

    source = _source(name)
    options: dict[str, Any] = {"attn_implementation": attention, "dtype": getattr(torch, dtype)}
    try:
        config = auto.AutoConfig.from_pretrained(source, revision=revision)
        adapter = _adapter(config.model_type)
        processor = auto.AutoProcessor.from_pretrained(source, revision=revision)
        if weights == "random":
            torch.manual_seed(seed)
            model = auto.AutoModelForImageTextToText.from_config(config, **options)
        else:
            model = auto.AutoModelForImageTextToText.from_pretrained(source, revision=revision, **options)
    except Unsupported:
        raise
    except OSError as error:
        raise LoadError(_explain(name, source, error)) from error
    except (ImportError, ValueError) as error:
        raise LoadError(f"model {name}: {source} cannot be loaded: {_first_line(error)}") from error
    processor.tokenizer.padding_side = "left"
    model = model.to(device).eval()
    commit = getattr(config, "_commit_hash", None) if weights == "pretrained" else None
    return Loaded(
        name, Path(source).name if Path(source).is_dir() else source, model, processor, adapter, commit or _weights_hash(model)
    )


def _adapter(model_type: str) -> Adapter:
    for adapter in adapters():
        if model_type in adapter.model_types:
            return adapter
    known = ", ".join(sorted(t for adapter in adapters() for t in adapter.model_types))
    raise Unsupported(f"no adapter for model type {model_type!r}; families: {known}")


def _source(name: str) -> str:
    """What `from_pretrained` takes for `name`."""
    known = aliases()
    if name in known:
        return known[name]
    if Path(name).is_dir():
        if not (Path(name) / "config.json").is_file():
            raise LoadError(f"folder {name} holds no config.json; give a folder that save_pretrained wrote")
        return name
    if name.count("/") == 1 and not name.startswith((".", "/")):
        return name
    raise LoadError(f"unknown model {name!r}{suggest(name, known, '')}; give an alias ({', '.join(known)}), a hub id or a folder")


def _explain(name: str, source: str, error: Exception) -> str:
    if Path(source).is_dir():
        return f"model {name}: {source} cannot be loaded: {_first_line(error)}"
    return (
        f"model {name}: {source} could not be fetched from the model hub and is not in the local cache "
        f"({_first_line(error)}). Go online once, or download it elsewhere and give its folder: model=PATH. "
        f"Families are known to load with {KNOWN_GOOD}."
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


def _weights_hash(model: nn.Module) -> str:
    """A hash of every parameter and buffer, shortened."""
    return f"sha256:{weights_digest(model)[:16]}"
