"""FasterVLM (2024): keep the visual tokens that the vision encoder's CLS token attends to most."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor

from prunebench import (
    RECEIVED,
    Facts,
    ScorePruner,
    Signal,
    VisualTokens,
    attention_of,
    check_attention,
    register,
)


@register(
    paper="https://arxiv.org/abs/2412.01818",
    code="https://github.com/Theia-4869/FasterVLM",
    variant="tiled images keep the model's own unpadding and newline tokens, "
    "which the official code removes",
)
@dataclass(frozen=True)
class FasterVLM(ScorePruner):
    """Rank by CLS attention in the block that the projector reads, averaged over heads, in every
    crop by itself.

    Newline tokens have no patch and rank last. `attention` "received" ranks by the attention a
    token's patches receive from all others, which is ours; "auto" does so where the encoder has no
    CLS token.
    """

    default_positions = "compact"
    per_tile = True
    work_by_shape = True
    attention: str = "auto"

    def __post_init__(self) -> None:
        check_attention(self.attention)

    def prepared(self, facts: Facts) -> Self:
        """With the attention that the encoder has."""
        return replace(self, attention=attention_of(self.attention, facts))

    @property
    def port(self) -> str:
        return RECEIVED if self.attention == "received" else ""

    @property
    def needs(self) -> frozenset[Signal]:
        received = self.attention == "received"
        return frozenset({Signal.RECEIVED_ATTENTION if received else Signal.CLS_ATTENTION})

    def score(self, tokens: VisualTokens) -> Tensor:
        """[N] what CLS, or all patches, paid in the block that the projector reads."""
        received = self.attention == "received"
        attention = tokens.received_attention if received else tokens.cls_attention  # [B, H, N]
        return attention.mean(dim=(0, 1))
