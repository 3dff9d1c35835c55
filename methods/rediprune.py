"""ReDiPrune (2026): greedily keep what is like the question and unlike what is kept already."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool1d, normalize

from prunebench import (
    Keep,
    Pruner,
    Signal,
    Stage,
    VisualTokens,
    greedy_marginal,
    pick_tiles,
    register,
    require_finite,
    top,
)

WORDS = 128
"""How many tokens of the text count, the last ones."""


@register(
    paper="https://arxiv.org/abs/2603.24680",
    code="https://github.com/UA-CVML/ReDiPrune",
    variant=(
        "the encoder's features are averaged over the patches of a token; images and tiles are "
        "pruned like frames, where official code leaves most as they are"
    ),
)
@dataclass(frozen=True)
class ReDiPrune(Pruner):
    """In every image, tile or frame first the token most relevant, then argmax 1 - max cos +
    alpha r, the cosines those to the tokens taken, all of the encoder's features.

    The relevance r is the cosine to the text behind the last visual token (all text where there is
    none): its word embeddings are mixed by a softmax of their cosines, averaged with weights that
    grow by exp(3) towards the end, and folded to the encoder's width. The two share no space, so
    that r is a fixed projection of the prompt rather than a likeness.

    Settings:

    - `alpha`: how much relevance counts;
    - `tau`: above 0 the candidates are fewer: the three times as many most relevant where less than
      half of the tokens stay, else those of a relevance of `tau`, if they are enough.
    """

    needs = frozenset(
        {
            Signal.ENCODER_FEATURES,
            Signal.TEXT_FEATURES,
            Signal.TEXT_PLACES,
            Signal.VISUAL_PLACES,
        }
    )
    default_positions = "compact"
    alpha: float = 0.5
    tau: float = 0.0

    def __post_init__(self) -> None:
        if not self.alpha > 0:
            raise ValueError(f"alpha is {self.alpha:g}; it is above 0")

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        """The picks of every tile; raises ValueError for features that are not finite."""
        features = tokens.encoder_features[0].float()
        require_finite(features, "encoder features")
        query = self.query(tokens)
        require_finite(query, "text features")
        unit = normalize(features, dim=-1)
        relevance = unit @ normalize(folded(query, features.shape[1]), dim=0).to(unit.device)

        def pick(places: Tensor, count: int) -> Tensor:
            candidates = self.candidates(relevance[places], count)
            own = places.to(unit.device)[candidates]
            likeness = unit[own] @ unit[own].T
            return own[greedy_marginal(likeness, self.alpha * relevance[own], count)]

        return Keep(pick_tiles(tokens, stage.keep, pick))

    def candidates(self, relevance: Tensor, count: int) -> Tensor:
        """The places of those of n tokens among which `count` are chosen, ascending."""
        everything = torch.arange(len(relevance), device=relevance.device)
        if self.tau <= 0:
            return everything
        if count < len(relevance) // 2:
            return top(relevance, max(3 * count, count + 1)).sort().values
        relevant = (relevance >= self.tau).nonzero()[:, 0]
        return relevant if len(relevant) >= count else everything

    def query(self, tokens: VisualTokens) -> Tensor:
        """[D] what the text asks for, in the language model's space; 0 without text."""
        places = tokens.text_places
        behind = places > tokens.visual_places.max()
        if not bool(behind.any()):
            behind = torch.ones_like(behind)
        words = tokens.text_features.float()[behind.to(tokens.text_features.device)][-WORDS:]
        unit = normalize(words, dim=-1)
        context = (unit @ unit.T).softmax(-1) @ words
        # a single word is the first one of its text
        weights = torch.linspace(0, 3, len(words), device=words.device).softmax(0)
        return weights @ context

    def explain(self, tokens: VisualTokens, stage: Stage) -> dict[str, Tensor]:
        return {"text_query": self.query(tokens)}


def folded(query: Tensor, width: int) -> Tensor:
    """[width] of `query` [D]: means of its groups, or its values over and over where it is
    shorter.
    """
    if len(query) < width:
        return query.repeat(-(-width // len(query)))[:width]
    # where the width divides, these are the means of consecutive groups
    return adaptive_avg_pool1d(query[None], width)[0]
