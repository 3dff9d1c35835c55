"""Models: aliases of public checkpoints, loading, and the family of a loaded model."""

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

from prunebench.border.text import message, one_line
from prunebench.identity import weights_digest
from prunebench.models import checkpoint
from prunebench.models.base import KNOWN_GOOD, Family, Unsupported
from prunebench.models.checkpoint import LoadError as LoadError
from prunebench.registry import suggest
from prunebench.testbed import DEFAULT as DEFAULT
from prunebench.testbed import MODELS as EMBEDDED

Weights = Literal["pretrained", "random"]

ELSEWHERE = (
    f"Go online once, or give a folder: model=PATH. Families are known to load with {KNOWN_GOOD}."
)


@dataclass(frozen=True)
class Loaded:
    """A model ready to run: `id` is the hub's, or a local folder's name; `revision` the hub's
    commit, or the weights' hash.

    `trust_remote_code` says whether code that came with the model was allowed to run.
    """

    name: str
    id: str
    model: Any
    processor: Any
    family: Family
    revision: str
    trust_remote_code: bool = False


@cache
def families() -> tuple[Family, ...]:
    """One instance of every family; a family is one file in this package."""
    found = []
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        found += [
            kind()
            for kind in vars(module).values()
            if isinstance(kind, type)
            and issubclass(kind, Family)
            and not isabstract(kind)
            and kind.__module__ == module.__name__
        ]
    return tuple(found)


def aliases() -> dict[str, str]:
    """Every short name: embedded models with their folders, public checkpoints with their hub ids."""
    public = {alias: target for family in families() for alias, target in family.aliases.items()}
    return {**{name: str(path) for name, path in EMBEDDED.items()}, **public}


def family_of(model: nn.Module) -> Family:
    """The family of the model; raises Unsupported where there is none."""
    return _adapter(
        str(getattr(getattr(model, "config", None), "model_type", type(model).__name__))
    )


def load(
    name: str,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    attention: str = "sdpa",
    weights: Weights = "pretrained",
    seed: int = 0,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Loaded:
    """Load an alias, a hub id or a local folder through stock transformers.

    `weights="random"` builds the configuration with seeded random weights and fetches none. Code
    that comes with a model runs only where `trust_remote_code` says so; nobody is asked at a
    terminal.

    Raises LoadError in one line that says what could not be had and what to do, Unsupported where
    the family has no family. Weights that lack a tensor, hold one too many, one of another shape or
    one that is not finite are an error, too.
    """
    source = _source(name)
    with checkpoint.explained(f"model {name}", source, ELSEWHERE), checkpoint.unattended():
        plan = _Plan(
            source,
            device,
            _dtype(dtype),
            _attention(attention, trust_remote_code),
            revision,
            trust_remote_code,
        )
        config = plan.config()
        family = _adapter(config.model_type)
        processor = plan.processor()
        model = plan.random(config, seed) if weights == "random" else plan.pretrained(config)
        model = model.to(device).eval()
        checkpoint.check_processor(processor, model, family.placeholders(model))
        processor.tokenizer.padding_side = "left"
        checkpoint.check_prompt(processor, model, family)
    local = Path(source).is_dir()
    identity = (plan.commit() if weights == "pretrained" else None) or _weights_hash(model)
    return Loaded(
        name,
        Path(source).name if local else source,
        model,
        processor,
        family,
        identity,
        trust_remote_code,
    )


@dataclass(frozen=True)
class _Plan:
    """Where a model's parts come from and what they shall be like; each method loads one through
    transformers' auto classes.
    """

    source: str
    device: str
    dtype: torch.dtype
    attention: str
    revision: str | None
    trust: bool

    def config(self) -> Any:
        if (
            Path(self.source) / "adapter_config.json"
        ).is_file():  # transformers would load the base that it names
            raise LoadError(
                "the folder holds a low-rank adapter; give the folder of a whole model (peft: merge_and_unload)"
            )
        values, _ = _auto("PretrainedConfig").get_config_dict(self.source, revision=self.revision)
        checkpoint.check_config(values)
        return self._from("AutoConfig")

    def processor(self) -> Any:
        return self._from("AutoProcessor")

    def random(self, config: Any, seed: int) -> Any:
        self._check_size(config, None)
        torch.manual_seed(seed)
        return _auto("AutoModelForImageTextToText").from_config(config, **self._options)

    def pretrained(self, config: Any) -> Any:
        self._check_size(config, self._stored())
        # the sizes are compared below, where the names are at hand; transformers only logs them
        options = {"output_loading_info": True, "ignore_mismatched_sizes": True}
        model, report = self._from("AutoModelForImageTextToText", **options, **self._options)
        checkpoint.check_loaded(model, report)
        return model

    @property
    def _options(self) -> dict[str, Any]:
        return {
            "attn_implementation": self.attention,
            "dtype": self.dtype,
            "trust_remote_code": self.trust,
        }

    def _from(self, auto: str, **options: Any) -> Any:
        trusted = {"trust_remote_code": self.trust, **options}
        return _auto(auto).from_pretrained(self.source, revision=self.revision, **trusted)

    def _check_size(self, config: Any, stored: checkpoint.Header | None) -> None:
        if self.trust:  # nobody knows what foreign code does without data
            return
        with torch.device("meta"):
            empty = _auto("AutoModelForImageTextToText").from_config(config, **self._options)
        quantized = getattr(config, "quantization_config", None) is not None
        checkpoint.check_size(empty, stored, quantized, self.dtype, self.device)

    def commit(self) -> str | None:
        """The hub's commit, by which its cache names the snapshot; None for a folder."""
        snapshot = self._snapshot()
        return None if snapshot is None else snapshot.name

    def _stored(self) -> checkpoint.Header | None:
        """What is known of the weights before they are loaded."""
        snapshot = self._snapshot()
        return (
            checkpoint.header(Path(self.source))
            if snapshot is None
            else checkpoint.header(snapshot, partial=True)
        )

    def _snapshot(self) -> Path | None:
        """Where the hub's cache keeps the model once its configuration is loaded; None for a
        folder.
        """
        from huggingface_hub import try_to_load_from_cache

        if Path(self.source).is_dir():
            return None
        cached = try_to_load_from_cache(self.source, "config.json", revision=self.revision)
        return Path(cached).parent if isinstance(cached, str) else None


def _auto(name: str) -> Any:
    """One of transformers' classes, which are untyped."""
    import transformers

    return getattr(transformers, name)


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise LoadError(f"dtype is {one_line(name, 40)!r}; it is float32, bfloat16 or float16")
    return dtype


def _attention(name: str, trusted: bool) -> str:
    """transformers takes an attention kernel from the hub where a name has a slash: code of others,
    like a model's own.
    """
    if "/" in name and not trusted:
        raise LoadError(
            f"attention {one_line(name, 60)} is code from the hub, which is not run; allow it with trust_remote_code=true"
        )
    return name


def _adapter(model_type: str) -> Family:
    for family in families():
        if model_type in family.model_types:
            return family
    known = ", ".join(sorted(t for family in families() for t in family.model_types))
    raise Unsupported(f"no family for model type {one_line(model_type, 60)!r}; families: {known}")


def _source(name: str) -> str:
    """What `from_pretrained` takes for `name`."""
    known = aliases()
    if name in known:
        return known[name]
    shown = one_line(name, 80)
    try:
        path = Path(name).expanduser()
        # a question about a path can itself be refused: no permission, a name too long, a NUL in it
        kind = "folder" if path.is_dir() else "file" if path.exists() else ""
        whole = kind == "folder" and (path / "config.json").is_file()
    except (OSError, ValueError, RuntimeError) as error:
        raise LoadError(
            f"model {shown!r} cannot be looked at: {one_line(message(error), 120)}"
        ) from error
    if whole:
        return str(path)
    if kind and name:
        reason = "the folder holds no config.json" if kind == "folder" else "that is no folder"
        raise LoadError(f"model {shown}: {reason}; give a folder that save_pretrained wrote")
    if name.count("/") == 1 and _is_id(name):
        return name
    raise LoadError(
        f"unknown model {shown!r}{suggest(name, known, '')}; give a short name (`prunebench list models`), a hub id or a folder"
    )


def _is_id(name: str) -> bool:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _weights_hash(model: nn.Module) -> str:
    """A hash of every parameter and buffer, shortened."""
    return f"sha256:{weights_digest(model)[:16]}"
