"""Outline: a model without weights, of which a family finds no more than it asks for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from prunebench.models.base import Family

THETA = 10_000.0
"""Base of rotary frequencies where a configuration names none; no cost depends on it."""


class Part(nn.Module):
    """A module that has a configuration and nothing else but what is put into it."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config


class Rotary(nn.Module):
    """Frequencies of a rotary position embedding, for methods that are told them."""

    inv_freq: Tensor

    def __init__(self, text_config: Any) -> None:
        super().__init__()
        heads = text_config.num_attention_heads
        width = getattr(text_config, "head_dim", None) or text_config.hidden_size // heads
        theta = getattr(text_config, "rope_theta", None) or THETA
        powers = torch.arange(0, width, 2, dtype=torch.float32) / width
        self.register_buffer("inv_freq", theta**-powers, persistent=False)


class Outline(nn.Module):
    """A model's configuration, and empty modules where a family looks for its parts: as many
    decoder layers and vision blocks as there are.

    `name` is the checkpoint's; `whole` makes transformers' own model without data, for families
    that ask it how it packs images.
    """

    def __init__(self, family: Family, config: Any, name: str, whole: Any = None) -> None:
        super().__init__()
        self.config = config
        self._whole = whole
        config._name_or_path = name
        text, vision = config.get_text_config(), config.vision_config
        self.text = Part(text)
        self.text.layers = _empty(text.num_hidden_layers)
        self.text.rotary_emb = Rotary(text)
        self.text.norm = nn.Identity()
        self.eyes = Part(vision)
        blocks = getattr(vision, "depth", None) or vision.num_hidden_layers
        _put(self.eyes, family.blocks_at[0], _empty(blocks))

    @property
    def model(self) -> Any:
        """What transformers' own model has by that name."""
        return self._whole().model

    def get_decoder(self) -> nn.Module:
        """The language model."""
        return self.text

    def get_encoder(self, modality: str) -> nn.Module:
        """The vision encoder, whatever the modality."""
        return self.eyes


def _empty(count: int) -> nn.ModuleList:
    return nn.ModuleList([nn.Identity() for _ in range(count)])


def _put(owner: nn.Module, path: str, module: nn.Module) -> None:
    """Let a module be found at a path of names."""
    *names, last = path.split(".")
    for name in names:
        inner = nn.Module()
        owner.add_module(name, inner)
        owner = inner
    owner.add_module(last, module)
