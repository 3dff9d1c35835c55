"""Roofline: how long each phase takes at least on an accelerator that does nothing else: the longer
of what its arithmetic and its memory need. An estimate, and no measurement.

A phase is charged with its FLOPs and with its weights, read once for the whole batch; a step of
decoding also reads every request's keys and values. What is in between (activations, launches of
kernels, waiting) is not in it. Decoder layers of a prefill count causal attention, which kernels
for these cards do not work out in full.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prunebench.pricing.bill import Bill
from prunebench.pricing.memory import WIDTHS, entry_bytes
from prunebench.pricing.subject import Subject


@dataclass(frozen=True)
class Accelerator:
    """A card: `peak` FLOPs a second in dense products of 16-bit numbers, `bandwidth` bytes a second
    of its memory, and `memory` in gigabytes.
    """

    name: str
    peak: float
    bandwidth: float
    memory: float
    source: str


ACCELERATORS: Mapping[str, Accelerator] = {
    card.name: card
    for card in (
        Accelerator(
            "h100",
            989.4e12,
            3.35e12,
            80,
            "NVIDIA H100 Tensor Core GPU data sheet, SXM, without sparsity",
        ),
        Accelerator(
            "h100-pcie",
            756e12,
            2.0e12,
            80,
            "NVIDIA H100 Tensor Core GPU data sheet, PCIe, without sparsity",
        ),
        Accelerator(
            "h200",
            989.4e12,
            4.8e12,
            141,
            "NVIDIA H200 Tensor Core GPU data sheet, SXM, without sparsity",
        ),
        Accelerator(
            "a100",
            312e12,
            2.039e12,
            80,
            "NVIDIA A100 Tensor Core GPU data sheet, SXM 80 GB, without sparsity",
        ),
        Accelerator(
            "a100-40gb",
            312e12,
            1.555e12,
            40,
            "NVIDIA A100 Tensor Core GPU data sheet, SXM 40 GB, without sparsity",
        ),
        Accelerator(
            "l40s", 362.05e12, 0.864e12, 48, "NVIDIA L40S GPU data sheet, without sparsity"
        ),
    )
}
"""Cards by name, with the numbers that their maker prints."""


@dataclass(frozen=True)
class Times:
    """Seconds of each phase of a batch, at least."""

    vision: float
    projector: float
    select: float
    prefill: float
    decode: float
    steps: int

    @property
    def first_token(self) -> float:
        """Until the first token of all answers is there."""
        return self.vision + self.projector + self.select + self.prefill

    @property
    def later_token(self) -> float:
        """Between two tokens of an answer."""
        return self.decode / self.steps if self.steps else 0.0

    @property
    def total(self) -> float:
        """The whole batch."""
        return self.first_token + self.decode


@dataclass(frozen=True)
class Roofline:
    """A card on which `batch` requests run together, with numbers of one type."""

    card: Accelerator
    subject: Subject
    batch: int
    dtype: str

    @property
    def width(self) -> int:
        """Bytes of a number."""
        return WIDTHS[self.dtype]

    def times(self, bill: Bill) -> Times:
        """How long a batch of requests of that bill takes at least."""
        parameters = self.subject.parameters
        return Times(
            self._longer(bill.vision, parameters.vision * self.width),
            self._longer(bill.projector, parameters.projector * self.width),
            # what a method reads of memory is its own; only its products are known
            self._longer(bill.signals + bill.selection, 0),
            self._prefill(bill),
            self._decode(bill),
            bill.new_tokens,
        )

    def _longer(self, flops: float, weights: float) -> float:
        """Seconds of work that every request needs, and weights that are read once for all."""
        arithmetic = self.batch * flops / self.card.peak
        return max(arithmetic, weights / self.card.bandwidth)

    def _prefill(self, bill: Bill) -> float:
        """All decoder layers, each by itself, and the head."""
        total = self._longer(bill.head, self._head_bytes())
        entry = entry_bytes(self.subject.text_config, self.width)
        for flops, rows in zip(bill.causal_layers, bill.lengths.rows, strict=True):
            cache_bytes = self.batch * rows * entry
            total += self._longer(flops, self._layer_bytes(self.batch * rows) + cache_bytes)
        return total

    def _decode(self, bill: Bill) -> float:
        """Step by step, each layer by itself."""
        entry = entry_bytes(self.subject.text_config, self.width)
        weights = self._layer_bytes(self.batch)
        total = bill.new_tokens * self._longer(bill.head, self._head_bytes())
        for rows, steps in zip(bill.lengths.kept_rows, bill.steps, strict=True):
            for keys, flops in enumerate(steps, rows + 1):
                total += self._longer(flops, weights + self.batch * keys * entry)
        return total

    def _layer_bytes(self, tokens: int) -> float:
        """Weights of one decoder layer that so many tokens meet: of experts those that one of them
        is expected to be sent to, were the choices even.
        """
        parameters, text = self.subject.parameters, self.subject.text_config
        of_experts = parameters.experts * experts_met(text, tokens)
        numbers = parameters.layers - parameters.experts + of_experts
        return numbers / self.subject.layers * self.width

    def _head_bytes(self) -> float:
        """Weights of what turns a state into logits, which may be the table of words."""
        parameters = self.subject.parameters
        return (parameters.head or parameters.embedding) * self.width


def experts_met(text_config: Any, tokens: int) -> float:
    """The share of a layer's experts that at least one of so many tokens is sent to, were they
    spread evenly; 1 where there are none.
    """
    experts = getattr(text_config, "num_experts", None)
    if not experts:
        return 1.0
    missed = 1 - text_config.num_experts_per_tok / experts
    return float(1 - missed**tokens)
