"""FasterVLM (2024): keep the visual tokens that the vision encoder's CLS token attends to most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from prunebench import (
    Reads,
    ScorePruner,
    Signal,
    VisualTokens,
    attention_reads,
    attention_stand_ins,
    check_attention,
    encoder_attention,
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

    Newline tokens have no patch and rank last. `attention`: see `attention_reads`; the received one
    is ours.
    """

    default_positions = "compact"
    per_tile = True
    work_by_shape = True
    attention: str = "auto"

    def __post_init__(self) -> None:
        check_attention(self.attention)

    @property
    def stand_ins(self) -> Mapping[Signal, Signal]:
        return attention_stand_ins(self.attention)

    @property
    def reads(self) -> Reads:
        return attention_reads(self.attention)

    def score(self, tokens: VisualTokens) -> Tensor:
        """[N] what CLS, or all patches, paid in the block that the projector reads."""
        return encoder_attention(tokens).mean(dim=(0, 1))
