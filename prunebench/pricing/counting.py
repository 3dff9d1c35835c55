"""Counting: how many numbers a model's parts hold, on transformers' own class without memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from prunebench.models.catalogue import family_of

PROJECTORS = ("merger", "projector", "connector")
"""What modules between vision encoder and language model have in their names."""


def stock_model(config: Mapping[str, Any]) -> Any:
    """The stock class of a configuration, its tensors without data."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    values = dict(config)
    settings = AutoConfig.for_model(values.pop("model_type"), **values)
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(settings)


def counted(model: Any) -> dict[str, int]:
    """The fields of `Parameters`, each number once, however many modules share it."""
    family = family_of(model)
    decoder, encoder = family.decoder(model), family.vision(model)
    parts: dict[str, list[nn.Module | None]] = {
        "projector": [*_named(model, PROJECTORS)],
        "vision": [encoder],
        "layers": [family.layers(model)],
        "embedding": [model.get_input_embeddings()],
        "head": [model.get_output_embeddings()],
        "rest": [decoder, model],
    }
    counted_ids: set[int] = set()
    counts = {name: _fresh(modules, counted_ids) for name, modules in parts.items()}
    experts = _named(decoder, ("experts",))
    return {**counts, "experts": _fresh(experts, set())}


def _named(model: nn.Module, words: Iterable[str]) -> list[nn.Module]:
    """The modules whose own name has one of the words."""
    modules = []
    for name, module in model.named_modules():
        own = name.rpartition(".")[2]
        if any(word in own for word in words):
            modules.append(module)
    return modules


def _fresh(modules: Iterable[nn.Module | None], counted_ids: set[int]) -> int:
    """How many numbers modules hold that no part before them has."""
    count = 0
    for module in modules:
        for parameter in module.parameters() if module is not None else ():
            if id(parameter) not in counted_ids:
                counted_ids.add(id(parameter))
                count += parameter.numel()
    return count
