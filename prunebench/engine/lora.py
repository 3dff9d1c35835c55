"""Lora: a low-rank adapter in peft's file layout, which a model's linear layers wear for as long as
a session lives.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from prunebench.border.text import one_line
from prunebench.engine.hooks import Hook
from prunebench.models import LoadError
from prunebench.models.base import Unsupported

PREFIX = "base_model.model."

READ = frozenset(
    {
        *("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora"),
        *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
        *("peft_type", "bias", "init_lora_weights"),
    }
)
"""Settings that this file goes by."""

IDLE = frozenset(
    {
        *("task_type", "base_model_name_or_path", "revision", "inference_mode", "peft_version"),
        *("auto_mapping", "lora_dropout", "runtime_config"),
        # these say how other settings work, which are refused
        *("megatron_core", "qalora_group_size", "ensure_weight_tying"),
    }
)
"""Settings that change nothing once an adapter is trained."""

STARTS = (True, False, "gaussian", "orthogonal", "eva")
"""Ways to begin an adapter that leave the model's own weights as they are."""


@contextmanager
def tuned(model: nn.Module, folder: Path | None) -> Iterator[None]:
    """Let the model wear the adapter of `folder`; on leaving it is as before. None does nothing.

    The adapter is a term added to what a linear layer puts out, in float32. The weights are never
    touched, so it works on those that are offloaded, quantised or too coarse for a small change.
    Raises Unsupported where the folder holds no adapter or one of a kind that is not served,
    LoadError where tensors are missing, unexpected or of another shape.
    """
    with ExitStack() as undo:
        for module, term in _terms(model, folder) if folder is not None else ():
            undo.callback(module.register_forward_hook(Hook(term)).remove)
        yield


class _Term:
    """What the adapter adds behind one linear layer: B A x times a scale; kept where it was needed
    last.
    """

    def __init__(self, down: Tensor, up: Tensor, scale: float) -> None:
        self.down, self.up, self.scale = down.float(), up.float() * scale, scale

    def __call__(self, _module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        if self.down.device != output.device:
            self.down, self.up = self.down.to(output.device), self.up.to(output.device)
        rows = args[0].to(output.device, torch.float32)
        return (output.float() + linear(linear(rows, self.down), self.up)).to(output.dtype)


@dataclass(frozen=True)
class _Config:
    """The settings of an adapter that decide what it does."""

    folder: Path
    values: Mapping[str, Any]

    def rank(self, owner: str) -> int:
        """The inner width at a layer."""
        return int(self._of(owner, "rank_pattern", "r"))

    def scale(self, owner: str) -> float:
        """By how much the product is multiplied at a layer."""
        rank, alpha = self.rank(owner), float(self._of(owner, "alpha_pattern", "lora_alpha"))
        return alpha / (rank**0.5 if self.values.get("use_rslora") else rank)

    def _of(self, owner: str, pattern: str, name: str) -> Any:
        """A setting at a layer: of the first pattern that its name ends with, else for all."""
        for ending, value in (self.values.get(pattern) or {}).items():
            # as peft reads them: an ending is a pattern, behind a dot or the whole name
            if re.match(rf"(.*\.)?({ending})$", owner):
                return value
        return self.values[name]

    def covers(self, owner: str) -> bool:
        """Whether the adapter changes the layer of that name, by peft's rules."""
        if _named(owner, self.values.get("exclude_modules") or ()):
            return False
        targets = self.values["target_modules"]
        if targets == "all-linear":
            return True
        # peft holds neither patterns nor whole names to layers_to_transform
        if isinstance(targets, str) or owner in targets:
            return _named(owner, targets)
        return _named(owner, targets) and self._in_layer(owner)

    def _in_layer(self, owner: str) -> bool:
        """Whether a layer lies where `layers_to_transform` says; everywhere if it says nothing."""
        layers = self.values.get("layers_to_transform")
        if layers is None or layers == []:
            return True
        if isinstance(layers, int):
            layers = [layers]
        patterns = self.values.get("layers_pattern") or ["[^.]*"]
        patterns = [patterns] if isinstance(patterns, str) else patterns
        # the first number in a name is the layer's; experts have one, too
        for pattern in patterns:
            match = re.match(rf"(?:^|.*?\.){pattern}\.(\d+)\.", owner)
            if match:
                return int(match.group(1)) in layers
        return False


def _named(owner: str, names: Any) -> bool:
    """Whether a layer is among `names`: a pattern for the whole name, or endings of it."""
    if isinstance(names, str):
        return re.fullmatch(names, owner) is not None
    return any(owner == name or owner.endswith(f".{name}") for name in names)


def _terms(model: nn.Module, folder: Path) -> Iterator[tuple[nn.Module, _Term]]:
    """Every layer that the adapter changes, with what it adds there."""
    config, state = _read(folder)
    layers = dict(model.named_modules())
    pairs, strange = _pairs(state)
    absent = [owner for owner in pairs if not hasattr(layers.get(owner), "in_features")]
    if absent:
        raise Unsupported(
            one_line(
                f"the adapter in {folder} changes {absent[0]}, which this model does not have as a "
                "linear layer"
            )
        )
    strange += [f"{owner}.lora_A.weight" for owner in pairs if not config.covers(owner)]
    if strange:
        raise LoadError(_names(folder, "unexpected tensors", strange))
    lacking = _lacking(model, config, layers, pairs)
    if lacking:
        raise LoadError(_names(folder, "missing tensors", lacking))
    if not pairs:
        raise LoadError(
            f"the adapter in {folder} changes nothing: no layer of this model is among its "
            "target_modules"
        )
    for owner, pair in pairs.items():
        _check_shapes(config, owner, layers[owner], pair)
        yield layers[owner], _Term(pair["A"], pair["B"], config.scale(owner))


def _pairs(state: Mapping[str, Tensor]) -> tuple[dict[str, dict[str, Tensor]], list[str]]:
    """By layer, the tensors A and B of an adapter; and the names of what belongs to none."""
    pairs: dict[str, dict[str, Tensor]] = {}
    strange = []
    for name, value in state.items():
        match = re.fullmatch(r"(.+)\.lora_([AB])\.weight", name.removeprefix(PREFIX))
        if match is None:
            strange.append(name)
        else:
            pairs.setdefault(match[1], {})[match[2]] = value
    return pairs, strange


def _lacking(
    model: nn.Module,
    config: _Config,
    layers: Mapping[str, nn.Module],
    pairs: Mapping[str, Mapping[str, Tensor]],
) -> list[str]:
    """The tensors that an adapter should have for the layers it covers, and has not."""
    # peft's all-linear leaves the output head alone
    head = getattr(model, "get_output_embeddings", lambda: None)()
    owners = dict.fromkeys(pairs)
    for owner, layer in layers.items():
        if layer is not head and _plain(layer) and config.covers(owner):
            owners[owner] = None
    lacking = []
    for owner in owners:
        halves = pairs.get(owner, {})
        lacking += [f"{owner}.lora_{half}.weight" for half in "AB" if half not in halves]
    return lacking


def _plain(layer: nn.Module) -> bool:
    """Whether a layer is linear by itself: those inside a peft wrapper answer by the wrapper's
    name.
    """
    return isinstance(layer, nn.Linear) or (
        hasattr(layer, "in_features") and not list(layer.children())
    )


def _check_shapes(config: _Config, owner: str, layer: Any, pair: Mapping[str, Tensor]) -> None:
    """Raise LoadError where a pair of tensors does not fit its layer or is not finite."""
    rank = config.rank(owner)
    for half, due in (("A", (rank, layer.in_features)), ("B", (layer.out_features, rank))):
        value = pair[half]
        if tuple(value.shape) != due:
            shapes = f"{list(value.shape)} where this model takes {list(due)}"
            raise LoadError(
                one_line(
                    f"the adapter in {config.folder} does not fit {owner}: lora_{half} is {shapes}"
                )
            )
        if not bool(torch.isfinite(value.float()).all()):
            raise LoadError(
                one_line(
                    f"the adapter in {config.folder} holds NaN or infinity in {owner}.lora_{half}"
                )
            )


def _read(folder: Path) -> tuple[_Config, dict[str, Tensor]]:
    """Settings and tensors of an adapter."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        values = json.loads((folder / "adapter_config.json").read_text())
        state = load_file(folder / "adapter_model.safetensors")
    # RecursionError is what JSON that is nested too deep raises
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise Unsupported(
            one_line(f"{folder} holds no adapter in peft's layout: {lines[0]}")
        ) from error
    _check_settings(folder, values)
    return _Config(folder, values), state


def _check_settings(folder: Path, values: Any) -> None:
    """Raise Unsupported for settings that would change what the adapter does and are not served."""
    if not isinstance(values, dict) or values.get("peft_type", "LORA") != "LORA":
        kind = values.get("peft_type") if isinstance(values, dict) else type(values).__name__
        raise Unsupported(one_line(f"{folder} holds a {kind} adapter; LORA is served"))
    for name in ("r", "lora_alpha", "target_modules"):
        if not values.get(name):
            raise LoadError(one_line(f"adapter_config.json in {folder} does not say {name}"))
    _check_kinds(folder, values)
    others = {name: value for name, value in values.items() if name not in READ | IDLE and value}
    if values.get("bias", "none") != "none":
        others["bias"] = values["bias"]
    if values.get("init_lora_weights", True) not in STARTS:
        others["init_lora_weights"] = values["init_lora_weights"]
    for name, value in others.items():
        text = (
            f"the adapter in {folder} sets {name}={value!r}, which is not served; merge it into "
            "the model"
        )
        raise Unsupported(one_line(text))


def _check_kinds(folder: Path, values: Mapping[str, Any]) -> None:
    """Raise LoadError for settings that are no numbers, names or patterns where these are due."""
    patterns = {name: values.get(name) or {} for name in ("rank_pattern", "alpha_pattern")}
    if not all(isinstance(pattern, dict) for pattern in patterns.values()):
        raise LoadError(
            one_line(f"adapter_config.json in {folder} is damaged: its patterns are no mappings")
        )
    ranks = [values["r"], *patterns["rank_pattern"].values()]
    alphas = [values["lora_alpha"], *patterns["alpha_pattern"].values()]
    sound = all(type(rank) is int and rank > 0 for rank in ranks)
    sound = sound and all(
        type(alpha) in (int, float) and abs(alpha) < float("inf") for alpha in alphas
    )
    for name in ("target_modules", "exclude_modules"):
        value = values.get(name) or []
        sound = sound and (isinstance(value, str) or all(isinstance(entry, str) for entry in value))
    try:
        names = [
            values[name]
            for name in ("target_modules", "exclude_modules")
            if isinstance(values.get(name), str)
        ]
        for pattern in [*names, *patterns["rank_pattern"], *patterns["alpha_pattern"]]:
            re.compile(pattern)
    except re.error:
        sound = False
    if not sound:
        raise LoadError(
            one_line(
                f"adapter_config.json in {folder} is damaged: its ranks, scales or names cannot "
                "be read"
            )
        )


def _names(folder: Path, what: str, names: list[str]) -> str:
    """One line that names the first tensors and counts all."""
    first = ", ".join(sorted(names)[:2])
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return one_line(f"the adapter in {folder} has {what}: {first}{more}")
