"""FasterVLM (2024): keep the visual tokens that the vision encoder's CLS token attends to most."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from prunebench import ScorePruner, Signal, VisualTokens, register


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

    Newline tokens have no patch and rank last. `attention="received"` ranks by the attention a
    token's patches receive from all others: ours, for encoders without a CLS token.
    """

    default_positions = "compact"
    per_tile = True
    work_by_shape = True
    attention: str = "cls"

    def __post_init__(self) -> None:
        if self.attention not in ("cls", "received"):
            raise ValueError(f"attention is {self.attention!r}; it is 'cls' or 'received'")

    @property
    def needs(self) -> frozenset[Signal]:
        of_cls = self.attention == "cls"
        return frozenset({Signal.CLS_ATTENTION if of_cls else Signal.RECEIVED_ATTENTION})

    def score(self, tokens: VisualTokens) -> Tensor:
        """[N] what CLS, or all patches, paid in the block that the projector reads."""
        of_cls = self.attention == "cls"
        attention = tokens.cls_attention if of_cls else tokens.received_attention  # [B, H, N]
        return attention.mean(dim=(0, 1))
