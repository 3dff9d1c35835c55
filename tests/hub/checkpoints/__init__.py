"""Thin checkpoints under public ids: real files, layers by number and special tokens, few and
narrow numbers; one file a family.

A file of a family has CHECKPOINTS, by public id a function that gives the parts of one.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from hub.vocabulary import answer_ids

DEPTHS = ("num_hidden_layers", "depth")
"""How configurations name the number of layers of a tower."""

PLACES = ("fullatt_block_indexes", "deepstack_visual_indexes")
"""What a configuration says of single layers of its vision tower."""


SHARPNESS = 3
"""How much larger than other weights those are by which attention tells tokens apart."""


@dataclass(frozen=True)
class Checkpoint:
    """What a public repository holds: JSON files by name, the tokenizer with what its own
    configuration says, the chat template, and the token that ends an answer.
    """

    files: Mapping[str, Mapping[str, Any]]
    tokenizer: Tokenizer
    settings: Mapping[str, Any]
    template: str
    end: str


def makers() -> dict[str, Callable[[], Checkpoint]]:
    """How every checkpoint is made, by its public id."""
    by_id: dict[str, Callable[[], Checkpoint]] = {}
    for info in pkgutil.iter_modules(__path__):
        by_id |= importlib.import_module(f"{__name__}.{info.name}").CHECKPOINTS
    return by_id


def write(folder: Path, name: str, layers: int | None = 8) -> None:
    """Write a checkpoint, its towers cut to `layers`; None leaves them as deep as in public."""
    checkpoint = makers()[name]()
    folder.mkdir(parents=True)
    (folder / "README.md").write_text(f"# {name}\n\nThe layout of the original, random weights.\n")
    for file, content in checkpoint.files.items():
        if file == "config.json" and layers is not None:
            content = shallow(content, layers)
        _write_json(folder / file, content)
    _write_tokenizer(folder, checkpoint)
    _write_weights(folder, checkpoint)


def shallow(config: Mapping[str, Any], layers: int) -> dict[str, Any]:
    """The configuration with every tower cut to `layers`."""
    content: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            value = shallow(value, layers)
        elif key in DEPTHS:
            value = min(value, layers)
        elif key in PLACES:
            value = list(range(layers))[-len(value) :]
        content[key] = value
    return content


def _write_tokenizer(folder: Path, checkpoint: Checkpoint) -> None:
    core = checkpoint.tokenizer
    core.save(str(folder / "tokenizer.json"))
    added = {}
    for number, token in core.get_added_tokens_decoder().items():
        flags = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False}
        added[str(number)] = {"content": token.content, "special": True, **flags}
    settings = {"added_tokens_decoder": dict(sorted(added.items())), **checkpoint.settings}
    _write_json(folder / "tokenizer_config.json", settings)
    _write_json(folder / "chat_template.json", {"chat_template": checkpoint.template})
    if "LlamaTokenizer" not in settings["tokenizer_class"]:
        core.model.save(str(folder))  # vocab.json and merges.txt


def _write_weights(folder: Path, checkpoint: Checkpoint) -> None:
    """Random weights of the class that config.json names, in shards, under their public names."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    config = AutoConfig.from_pretrained(folder)
    # as the configuration says it, which transformers would write in words of its own
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
        end = checkpoint.tokenizer.token_to_id(checkpoint.end)
        assert end is not None
        with torch.no_grad():
            _enliven(model, answer_ids(checkpoint.tokenizer), end)
    files = {path: path.read_bytes() for path in folder.iterdir()}
    model.to(torch.bfloat16).save_pretrained(folder, max_shard_size="8MB")
    for path, content in files.items():
        path.write_bytes(content)


def _enliven(model: Any, answers: list[int], end: int) -> None:
    """Weights large enough that answers depend on the image and the question, and an end after
    every answer.
    """
    for name, weight in model.named_parameters():
        if weight.ndim > 1 and "embed" not in name and "lm_head" not in name:
            weight.mul_(5)
        elif any(part in name for part in ("class_embedding", "position_embedding", "newline")):
            weight.normal_(std=0.1)
    inside = model.get_input_embeddings().weight
    outside = model.get_output_embeddings().weight
    inside.normal_(std=0.3)
    # an answer says of itself that it is one, by a direction in which nothing else writes; the end
    # is what follows one, and of all other tokens none is ever said
    mark = torch.randn(inside.shape[1])
    direction = mark / mark.norm()
    outside.zero_()
    outside[answers] = torch.randn(len(answers), len(mark))
    for name, weight in model.get_decoder().named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            weight -= torch.outer(direction, direction @ weight)
        elif name.endswith(("q_proj.weight", "k_proj.weight", "q_norm.weight", "k_norm.weight")):
            # else attention is all but even, and the mean of many tokens is much the same
            weight.mul_(SHARPNESS)
    for table in (inside, outside):
        table -= torch.outer(table @ direction, direction)
    inside[answers] += mark
    outside[answers] += mark
    outside[end] = 3 * mark


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
