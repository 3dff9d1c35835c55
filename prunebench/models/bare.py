"""Bare decoder: a language model without a vision encoder, as a family of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NoReturn

from torch import nn

from prunebench.models.base import EncoderRows, Family, Originals, Unsupported
from prunebench.pruner import Facts
from prunebench.signals import CLIP, ENCODER, Signal
from prunebench.tokens import Layout

REASON = "a decoder by itself has no vision encoder"


class BareDecoder(Family):
    """Any Llama-like text model. Whoever works with one says itself where visual tokens lie.

    No model type leads here: it is made where a decoder is pruned by itself.
    """

    name = "this model"
    model_types = frozenset()
    aliases: ClassVar[Mapping[str, str]] = {}
    vision_inputs = ()

    def facts(self, model: nn.Module) -> Facts:
        return self.decoder_facts(model)

    def lacks(self, signal: Signal) -> str | None:
        return REASON if signal in ENCODER | CLIP else None

    def vision(self, model: nn.Module) -> NoReturn:
        raise Unsupported(REASON)

    def placeholders(self, model: nn.Module) -> NoReturn:
        raise Unsupported(REASON)

    def layouts(
        self, model: nn.Module, inputs: Mapping[str, Any], originals: Originals | None = None
    ) -> list[Layout]:
        raise Unsupported(REASON)

    def encoder_rows(
        self, model: nn.Module, inputs: Mapping[str, Any], layouts: Sequence[Layout]
    ) -> list[EncoderRows]:
        raise Unsupported(REASON)

    def encode(self, model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
        raise Unsupported(REASON)

    def vision_flops(self, config: Any, inputs: Mapping[str, Any]) -> tuple[int, int]:
        raise Unsupported(REASON)

    def stretches(self, config: Any, inputs: Mapping[str, Any], block: int) -> list[int]:
        raise Unsupported(REASON)

    def block_flops(self, config: Any, stretches: Sequence[int]) -> int:
        raise Unsupported(REASON)
