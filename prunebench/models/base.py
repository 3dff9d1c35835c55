"""Adapter: the facts about one LVLM family that the engine and the measurements need."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from prunebench.tokens import Layout

KNOWN_GOOD = "transformers 5.4 to 5.23"


class Unsupported(ValueError):
    """The model cannot give what was asked of it; a result with a reason, not a failure."""


class DecoderParts:
    """Where a stock decoder keeps its parts; true of every Llama-like text model in transformers."""

    def decoder(self, model: nn.Module) -> nn.Module:
        """The text model that takes `inputs_embeds`."""
        return model.get_decoder()  # type: ignore[operator, no-any-return]

    def layers(self, model: nn.Module) -> nn.ModuleList:
        """The decoder's layers in order."""
        return _part(self.decoder(model), "layers", nn.ModuleList)  # type: ignore[return-value]

    def rotary(self, model: nn.Module) -> nn.Module:
        """The module that turns position ids into rotary tables."""
        return _part(self.decoder(model), "rotary_emb", nn.Module)

    def attention(self, layer: nn.Module) -> nn.Module:
        """The self-attention module of one layer, as it is handed to the attention function."""
        return _part(layer, "self_attn", nn.Module)


class Adapter(DecoderParts, ABC):
    """Facts about one family; one subclass a file, found by `model_types`."""

    model_types: ClassVar[frozenset[str]]
    """`config.model_type` values of the family."""
    aliases: ClassVar[Mapping[str, str]]
    """Short names of public checkpoints."""
    vision_inputs: ClassVar[tuple[str, ...]]
    """Names of the pixel tensors among the model's inputs, by modality order image, video."""

    def vision(self, model: nn.Module) -> nn.Module:
        """The vision encoder with everything up to the projected features."""
        return model.get_encoder(modality="image")  # type: ignore[operator, no-any-return]

    @abstractmethod
    def placeholders(self, model: nn.Module) -> tuple[int, ...]:
        """The token ids that stand for visual features in `input_ids`."""

    @abstractmethod
    def layouts(self, model: nn.Module, inputs: Mapping[str, Any]) -> list[Layout]:
        """Per batch row, where each visual token lies; raises ValueError where ids and grids disagree."""

    @abstractmethod
    def cell(self, model: nn.Module) -> int | None:
        """Pixels of one LLM token's side where images keep their resolution, None where it is fixed."""

    @abstractmethod
    def encode(self, model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The encoder's output by modality ("image", "video"), in the form `mm_encoder_outputs` takes."""

    @abstractmethod
    def vision_flops(self, config: Any, inputs: Mapping[str, Any]) -> tuple[int, int]:
        """FLOPs of the vision encoder and of the projector behind it, for all images and videos of `inputs`."""

    def visual(self, model: nn.Module, input_ids: Tensor) -> Tensor:
        """[B, S] bool, on the CPU: which prompt positions are visual."""
        return torch.isin(input_ids.cpu(), torch.tensor(self.placeholders(model)))


def _part(owner: nn.Module, name: str, kind: type[nn.Module]) -> nn.Module:
    part = getattr(owner, name, None)
    if not isinstance(part, kind):
        raise Unsupported(f"{type(owner).__name__} has no {name}; prunebench is known to work with {KNOWN_GOOD}")
    return part
