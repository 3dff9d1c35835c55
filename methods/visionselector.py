"""VisionSelector (2025): a small trained scorer ranks the tokens that enter the language model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from prunebench import (
    Example,
    Facts,
    Keep,
    Stage,
    Trained,
    VisualTokens,
    register,
    require_finite,
    top,
    with_newlines,
)


@register(
    paper="https://arxiv.org/abs/2510.16598",
    code="https://github.com/JulietChoo/VisionSelector",
    variant=(
        "trained on where the evidence lies, where the paper trains on answers through a "
        "differentiable choice; newlines do not count, and stay when all patches do"
    ),
)
@dataclass(frozen=True)
class VisionSelector(Trained):
    """Rank by q_i times the mean of all k_j, over the root of their width: q and k are linear maps
    of the tokens to half of their width.

    That is the mean of the products q_i k_j that official code makes of all pairs. One ranking runs
    over all images of a prompt, as it does there, so that one may lose all its tokens.
    """

    default_positions = "compact"
    work_by_shape = True
    own_share = 0.2

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        """The patches of highest score; raises ValueError for scores that are not finite."""
        scores = self.score(tokens)
        require_finite(scores, "scores")
        patches = (~tokens.newline).nonzero()[:, 0].to(scores.device)
        picks = patches[top(scores[patches], stage.keep)]
        return Keep(with_newlines(tokens, picks, stage.keep))

    def score(self, tokens: VisualTokens) -> Tensor:
        """[N] what the scorer says; 0 for newlines."""
        if self.module is None:
            raise ValueError("visionselector has no weights yet: prepared() finds them")
        scorer = self.module.to(tokens.features.device)
        scores = tokens.features.new_zeros(len(tokens), dtype=torch.float32)
        patches = (~tokens.newline).nonzero()[:, 0].to(scores.device)
        if not len(patches):
            return scores
        return scores.index_put((patches,), scorer(tokens.features[patches].float()))

    def explain(self, tokens: VisualTokens, stage: Stage) -> dict[str, Tensor]:
        return {"scores": self.score(tokens)}

    # ---- weights ---------------------------------------------------------------------------------

    @classmethod
    def sizes(cls, facts: Facts) -> dict[str, Any]:
        """Half of the language model's width, as published."""
        return {"width": facts.width, "hidden": max(1, facts.width // 2)}

    @classmethod
    def build(cls, sizes: Mapping[str, Any]) -> nn.Module:
        return Scorer(int(sizes["width"]), int(sizes["hidden"]))

    def loss(self, example: Example) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy of each patch's score, as a logit, with whether it shows evidence."""
        scores = self.score(example.tokens)
        patches = (~example.tokens.newline).nonzero()[:, 0].to(scores.device)
        target = example.target.to(scores)[patches]
        loss = binary_cross_entropy_with_logits(scores[patches], target)
        return loss, {"evidence_loss": float(loss.detach())}


class Scorer(nn.Module):
    """The two linear maps, under the names of the released weights."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.q_proj = nn.Linear(width, hidden)
        self.k_proj = nn.Linear(width, hidden)

    def forward(self, features: Tensor) -> Tensor:
        """[n] the scores of [n, D]."""
        # both maps are linear: the mean key is that of the mean token, and what it scores is one
        # product a token
        key = self.k_proj(features.mean(0))
        scores: Tensor = features @ (key @ self.q_proj.weight) + key @ self.q_proj.bias
        scaled: Tensor = scores / len(key) ** 0.5
        return scaled
