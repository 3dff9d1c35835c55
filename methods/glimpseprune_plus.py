"""GlimpsePrune+ (2025): GlimpsePrune on a language model that was tuned to answer from the
evidence's tokens alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from prunebench.methods.glimpseprune import GlimpsePrune

from prunebench import Reads, register


@register(
    paper="https://arxiv.org/abs/2508.01548",
    code="https://github.com/HVision-NKU/GlimpsePrune",
    variant="the adapter is worn while the method works, in place of a merged checkpoint; "
    "log probabilities of the tuning are those of the pruned pass itself, "
    "where the official code recomputes them on a shortened prompt",
)
@dataclass(frozen=True)
class GlimpsePrunePlus(GlimpsePrune):  # type: ignore[misc]  # mypy reads methods/ as a package of its own
    """GlimpsePrune with an adapter of the language model, trained by `prunebench reinforce`, and a
    glimpse trained on top.

    `lora` is the adapter's folder in peft's layout; "" is `lora` beside the weights. Its
    accuracy is that of the tuned model: compare it with an unpruned model that wears the adapter,
    too.
    """

    work_by_shape = True
    lora: str = ""

    @property
    def reads(self) -> Reads:
        folder = None if self.folder is None else self.folder / "lora"
        plain: Reads = super().reads
        return replace(plain, lora=Path(self.lora) if self.lora else folder)
