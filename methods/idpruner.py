"""IDPruner (2026): keep tokens that score high and do not look like those taken before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prunebench.methods.visionselector import VisionSelector
from torch import Tensor
from torch.nn.functional import normalize

from prunebench import (
    Keep,
    ProductRows,
    Reads,
    Signal,
    Stage,
    VisualTokens,
    attention_reads,
    attention_stand_ins,
    check_attention,
    encoder_attention,
    greedy_marginal,
    register,
    require_finite,
    scaled,
    with_newlines,
)


@register(
    paper="https://github.com/Tencent/AngelSlim",
    code="https://github.com/Tencent/AngelSlim",
    variant=(
        "the encoder's attention scores where there is no trained scorer, which is VisionSelector's"
        "; newlines do not count, and stay when all patches do"
    ),
)
@dataclass(frozen=True)
class IDPruner(VisionSelector):  # type: ignore[misc]  # mypy reads methods/ as a package of its own
    """Maximal marginal relevance: the highest importance, then argmax of `balance` times importance
    less 1 - `balance` times the largest cosine with the tokens taken, over all images of a prompt.

    Importance is a score scaled to 0..1.

    Settings:

    - `balance`: what importance counts;
    - `together`: how many are taken before similarities are looked at again;
    - `attention`: see `attention_reads`; what scores without weights, which is ours;
    - `weights`: those of a scorer; "none" asks for the encoder's attention, and "" falls back on it
      where a model has no weights.
    """

    default_positions = "original"
    work_by_shape = True
    optional = True
    balance: float = 0.5
    together: int = 1
    attention: str = "auto"

    def __post_init__(self) -> None:
        check_attention(self.attention)
        if not 0 <= self.balance <= 1 or self.together < 1:
            raise ValueError(
                f"balance is {self.balance:g} and together {self.together}; "
                "the one is a share in 0..1, the other is 1 or more"
            )

    @property
    def stand_ins(self) -> Mapping[Signal, Signal | None]:
        return attention_stand_ins(self.attention) if self.module is None else {}

    @property
    def reads(self) -> Reads:
        return attention_reads(self.attention) if self.module is None else Reads()

    def score(self, tokens: VisualTokens) -> Tensor:
        """[N] what the scorer says, or what the encoder looks at."""
        if self.module is None:
            return encoder_attention(tokens).mean(dim=(0, 1))
        scores: Tensor = super().score(tokens)
        return scores

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        """In the order of choice; raises ValueError for scores or features that are not finite."""
        scores = self.score(tokens)
        require_finite(scores, "scores")
        require_finite(tokens.features, "features")
        patches = (~tokens.newline).nonzero()[:, 0].to(tokens.features.device)
        importance = self.balance * scaled(scores[patches.to(scores.device)].to(patches.device))
        unit = normalize(tokens.features[patches].float(), dim=-1)
        count = min(stage.keep, len(patches))
        rows = ProductRows(unit)
        picks = greedy_marginal(importance, rows, count, 1 - self.balance, self.together)
        return Keep(with_newlines(tokens, patches[picks], stage.keep))
