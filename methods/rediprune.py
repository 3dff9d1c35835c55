"""ReDiPrune (2026): keep tokens that differ from each other and are near the question, as far as a
fold of its embeddings tells.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool1d, normalize

from prunebench import (
    Keep,
    ProductRows,
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


@register(
    paper="https://github.com/UA-CVML/ReDiPrune",
    code="https://github.com/UA-CVML/ReDiPrune",
    variant=(
        "still images, which official code leaves whole, are pruned tile by tile as frames are; "
        "parts of the budget are rounded to its sum; unpadding and newlines are the model's"
    ),
)
@dataclass(frozen=True)
class ReDiPrune(Pruner):
    """Per tile or frame first the token of highest relevance r, then argmax of 1 - its largest
    cosine to the tokens taken + `alpha` r, on the encoder's features.

    r is the cosine with the question: the input embeddings behind the image, at most the last
    `length`, each mixed by the softmax of its cosines with all, weighed by exp(3 t) with t from 0
    to 1 along them, and folded to the encoder's width by the mean of neighbours. The two spaces
    have nothing in common, so that r is a fixed random projection of the prompt.

    `tau` above 0 leaves as candidates the three times as many most relevant, where fewer than half
    stay, else those with an r of at least `tau`, if these suffice.
    """

    default_positions = "compact"
    alpha: float = 0.5
    tau: float = 0.0
    length: int = 128

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(f"length is {self.length}; it is 1 or more")

    @property
    def needs(self) -> frozenset[Signal]:
        places = {Signal.TEXT_PLACES, Signal.VISUAL_PLACES}
        return frozenset({Signal.ENCODER_FEATURES, Signal.TEXT_FEATURES} | places)

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        """The picks of every tile; raises ValueError for features that are not finite."""
        features = tokens.encoder_features[0].float()
        require_finite(features, "encoder features")
        unit = normalize(features, dim=-1)
        query = folded(self.query(tokens).to(unit.device), features.shape[1])
        require_finite(query, "text features")
        relevance = unit @ normalize(query, dim=0)

        def pick(places: Tensor, count: int) -> Tensor:
            own = places.to(unit.device)
            candidates = self.candidates(relevance[own], count)
            chosen_rows = own[candidates]
            order = spaced(unit[chosen_rows], self.alpha * relevance[chosen_rows], count)
            return places[candidates.to(places.device)[order.to(places.device)]]

        return Keep(pick_tiles(tokens, stage.keep, pick))

    def candidates(self, relevance: Tensor, count: int) -> Tensor:
        """The places in a tile of those that may be taken, in reading order."""
        every = torch.arange(len(relevance), device=relevance.device)
        if self.tau <= 0:
            return every
        if count < len(relevance) // 2:
            return top(relevance, max(3 * count, count + 1)).sort().values
        close = every[relevance >= self.tau]
        return close if len(close) >= count else every

    def query(self, tokens: VisualTokens) -> Tensor:
        """[D] the question in one vector."""
        last = int(tokens.visual_places.max())
        behind = (tokens.text_places > last).nonzero()[:, 0]
        # a prompt that ends with the image has no other text than that before it
        rows = behind if len(behind) else torch.arange(len(tokens.text_places))
        text = tokens.text_features[rows[-self.length :].to(tokens.text_features.device)].float()
        unit = normalize(text, dim=-1)
        mixed = (unit @ unit.T).softmax(-1) @ text
        weights = (3 * torch.linspace(0, 1, len(text), device=text.device)).exp()
        query: Tensor = (weights / weights.sum()) @ mixed
        return query

    def explain(self, tokens: VisualTokens, stage: Stage) -> dict[str, Tensor]:
        return {"text_query": self.query(tokens)}


def folded(query: Tensor, width: int) -> Tensor:
    """[width] of [D]: means of neighbours, or the same over and over where it is shorter."""
    if len(query) < width:
        return query.repeat(-(-width // len(query)))[:width]
    return adaptive_avg_pool1d(query[None], width)[0]


def spaced(unit: Tensor, bonus: Tensor, count: int) -> Tensor:
    """[count] places in the order of choice: the highest `bonus` [n], then argmax of bonus less the
    largest cosine among `unit` [n, C] to those taken.
    """
    return greedy_marginal(bonus, ProductRows(unit, count), count)
