"""SparseVLM+ (2025): SparseVLM without merging, its attention freed of how far apart question and
token stand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import sqrt
from typing import ClassVar, Self

import torch
from prunebench.methods.sparsevlm import SparseVLM, raters
from torch import Tensor

from prunebench import (
    INPUT,
    Facts,
    Part,
    Reads,
    Signal,
    Stage,
    Unsupported,
    VisualTokens,
    register,
    top,
)


@register(
    paper="https://arxiv.org/abs/2410.04417",
    code="https://github.com/Gumpest/SparseVLMs",
    variant="14 of 32 heads are the same share of other models' heads; the kernel is held at "
    "`least` or more, below which official code divides by numbers about 0 or negative; budgets "
    "and depths without a table get the powers of the nearest row's shares",
)
@dataclass(frozen=True)
class SparseVLMPlus(SparseVLM):  # type: ignore[misc]  # mypy reads methods/ as a package of its own
    """SparseVLM with attention divided by the rotary kernel, and with the heads that look at the
    image most; dropped tokens leave nothing.

    The kernel is what all-ones queries and keys score at a distance of d position ids, g(d) = (2 /
    d_h) sum_i cos(d theta_i), up to a factor. It falls with the distance, and far away to 0 and
    below (behind 1,706 ids at 128 channels and a base of 10,000); `least` is the smallest value
    that is divided by, as a share of g(0), and ours. Position ids on several axes count by the
    first. Of the heads `heads` stay, those whose raters pay the visual tokens most: a share, or a
    number.
    """

    default_positions = "original"
    work_by_shape = True
    table: ClassVar[Mapping[int, tuple[int, int, int]]] = {
        192: (300, 200, 118),
        128: (238, 108, 60),
        96: (246, 54, 28),
        64: (66, 34, 20),
    }
    heads: int | float = 0.4375
    least: float = 0.05
    frequencies: tuple[float, ...] = field(default=(), repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        is_share = isinstance(self.heads, float) and 0 < self.heads <= 1
        if not is_share and not (isinstance(self.heads, int) and self.heads >= 1):
            raise ValueError(f"heads is {self.heads}; it is a share in (0, 1] or a number")
        if not 0 < self.least <= 1:
            raise ValueError(f"least is {self.least}; it is a share in (0, 1]")

    def prepared(self, facts: Facts) -> Self:
        """The model's rotary frequencies are noted; raises Unsupported where it has none."""
        if not self.frequencies and not facts.frequencies:
            raise Unsupported(
                "sparsevlm_plus divides by the kernel of rotary position embeddings, which this "
                "model does not have"
            )
        frequencies = self.frequencies or facts.frequencies or ()
        plain: Self = super().prepared(facts)
        return replace(plain, frequencies=frequencies)

    @property
    def reads(self) -> Reads:
        signals = {Signal.POSITION_IDS, Signal.VISUAL_PLACES, Signal.TEXT_PLACES}
        plain: Reads = super().reads
        return plain | Reads(frozenset(signals)).only_at(Part.LLM)

    def kept(self, there: int, keep: int) -> int:
        """All that go on."""
        return min(there, keep)

    def clusters(self, dropped: int) -> int:
        """Nothing is merged."""
        return 0

    def score(self, tokens: VisualTokens) -> Tensor:
        """[N] what the raters paid in the chosen heads, over the kernel."""
        attention, rows = self.corrected(tokens)
        return attention[self.chosen(attention, rows)].mean(dim=0)[rows].mean(dim=0)

    def corrected(self, tokens: VisualTokens) -> tuple[Tensor, Tensor]:
        """[H, Q, N] the text's attention over the kernel, and the raters' rows."""
        attention = tokens.text_attention.float()
        count = attention.shape[1]
        ids = tokens.position_ids[0].float()
        text, visual = ids[tokens.text_places[-count:]], ids[tokens.visual_places]
        kernel = self.kernel((text[:, None] - visual).to(attention.device))
        return attention / kernel, raters(tokens, count)["raters"].to(attention.device)

    def kernel(self, distance: Tensor) -> Tensor:
        """What `distance` [Q, N] position ids leave of the score of all-ones vectors."""
        theta = torch.tensor(self.frequencies, dtype=torch.float32, device=distance.device)
        # a frequency at a time: [Q, N, d_h / 2] would be large
        total = torch.zeros_like(distance)
        for frequency in theta:
            total += (distance * frequency).cos()
        total = total.clamp(min=self.least * len(theta))
        return total * 2 / sqrt(2 * len(theta))

    def chosen(self, attention: Tensor, rows: Tensor) -> Tensor:
        """The numbers of the heads whose raters pay the visual tokens most."""
        count = self.heads if isinstance(self.heads, int) else round(self.heads * len(attention))
        return top(attention[:, rows].sum(dim=(1, 2)), max(1, count)).sort().values

    def explain(self, tokens: VisualTokens, stage: Stage) -> dict[str, Tensor]:
        """Scores, raters and heads."""
        if stage.site == INPUT:
            return {}
        attention, rows = self.corrected(tokens)
        heads = self.chosen(attention, rows)
        return {"scores": self.score(tokens), "raters": rows, "heads": heads}
