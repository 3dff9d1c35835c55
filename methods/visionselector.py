"""VisionSelector (2025): a small trained scorer ranks the tokens of all images together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

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
        "the mean over keys is taken first, which gives the same scores for less; training is "
        "ours: scores are trained on evidence masks in place of answers through a soft top-k"
    ),
)
@dataclass(frozen=True)
class VisionSelector(Trained):
    """score_i = q_i . mean_j k_j / sqrt(h) with q and k two linear maps of the tokens behind the
    projector to h channels; the highest stay, of all images together.

    Newline tokens have no patch and rank last. Training is ours: the loss is -log of the share that
    the softmax of the scores has on tokens that show the evidence.
    """

    work_by_shape = True
    own_share = 0.2

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        """The highest scores; raises ValueError where they are not finite."""
        scores = self.score(tokens)
        require_finite(scores, "scores")
        patches = (~tokens.newline).nonzero()[:, 0].to(scores.device)
        best = patches[top(scores[patches], stage.keep)]
        return Keep(with_newlines(tokens, best, stage.keep))

    def score(self, tokens: VisualTokens) -> Tensor:
        """[N] what the scorer says; newlines count in no mean."""
        if self.module is None:
            raise ValueError(
                "visionselector has no weights: prepared() brings them, weights='random' fresh ones"
            )
        features = tokens.features.float()
        is_patch = (~tokens.newline).to(features)
        scores: Tensor = self.module.to(features.device)(features, is_patch)
        return scores

    def explain(self, tokens: VisualTokens, stage: Stage) -> dict[str, Tensor]:
        return {"scores": self.score(tokens)}

    # ---- weights ---------------------------------------------------------------------------------

    @classmethod
    def sizes(cls, facts: Facts) -> dict[str, Any]:
        """As published: half as many channels as the language model has."""
        return {"width": facts.width, "hidden": max(1, facts.width // 2)}

    @classmethod
    def build(cls, sizes: Mapping[str, Any]) -> nn.Module:
        return Scorer(int(sizes["width"]), int(sizes["hidden"]))

    def loss(self, example: Example) -> tuple[Tensor, dict[str, float]]:
        """-log of the share on the evidence, and what it is where all tokens score the same."""
        shares = self.score(example.tokens).softmax(0)
        target = example.target.to(shares)
        loss = -(shares * target).sum().clamp(min=1e-9).log()
        uniform = -target.mean().clamp(min=1e-9).log()
        return loss, {"location_loss": float(loss.detach()), "uniform_loss": float(uniform)}


class Scorer(nn.Module):
    """Two projections, named as in the released weights."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.q_proj = nn.Linear(width, hidden)
        self.k_proj = nn.Linear(width, hidden)

    def forward(self, features: Tensor, weights: Tensor) -> Tensor:
        """[N] scores of `features` [N, D]; `weights` [N] say which count in the mean of keys."""
        weights = weights / weights.sum().clamp(min=1)
        # a mean of keys is the key of a mean: no [N, N] product
        key = self.k_proj(weights @ features)
        scores: Tensor = self.q_proj(features) @ key / key.shape[-1] ** 0.5
        return scores
