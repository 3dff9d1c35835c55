"""G-Prune (AAAI 2025): let importance flow among similar tokens, and keep those where it
gathers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from prunebench import (
    Keep,
    ScorePruner,
    Stage,
    VisualTokens,
    cosines,
    pick_groups,
    register,
    require_finite,
    tile_places,
    top,
    views,
)


@register(
    paper="https://arxiv.org/abs/2501.02268",
    code="https://github.com/jytmelon/G-Prune",
    variant=(
        "follows the public port in VLMUniPruneBench; the parts of the budget are rounded to its "
        "sum, and images and frames have graphs of their own"
    ),
)
@dataclass(frozen=True)
class GPrune(ScorePruner):
    """Tokens are joined where their cosine exceeds `similarity`; the edges of each, softmaxed at
    `temperature`, pass the tokens' lengths on `iterations` times; what arrives is divided by the
    number of edges.

    Of an image with crops the thumbnail is one graph, and all crops together are another.
    """

    default_positions = "compact"
    work_by_shape = True
    similarity: float = 0.5
    temperature: float = 0.03
    iterations: int = 5

    def __post_init__(self) -> None:
        if self.temperature <= 0 or self.iterations < 0 or not -1 <= self.similarity <= 1:
            raise ValueError(
                f"similarity is {self.similarity:g}, temperature {self.temperature:g} and "
                f"iterations {self.iterations}; they lie in -1..1, above 0, and from 0 on"
            )

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        """The highest of every graph; raises ValueError for features that are not finite."""
        scores = self.score(tokens)

        def pick(places: Tensor, count: int) -> Tensor:
            return places[top(scores[places], count)]

        return Keep(pick_groups(tokens, self.graphs(tokens), stage.keep, pick))

    def graphs(self, tokens: VisualTokens) -> list[Tensor]:
        """The places of the patches of each graph."""
        of_tiles = tile_places(tokens, newlines=False)
        graphs = []
        for view in views(tokens):
            alone = [number for number in view if tokens.tiles[number].kind != "crop"]
            crops = [number for number in view if tokens.tiles[number].kind == "crop"]
            for part in (alone, crops):
                if part:
                    graphs.append(torch.cat([of_tiles[number] for number in part]))
        return graphs

    def score(self, tokens: VisualTokens) -> Tensor:
        """[N] what arrives at each token; 0 for newlines."""
        features = tokens.features.float()
        require_finite(features, "features")
        scores = torch.zeros_like(features[:, 0])
        for places in self.graphs(tokens):
            scores[places] = self.flow(features[places])
        return scores

    def flow(self, features: Tensor) -> Tensor:
        """[n] what arrives at the tokens of one graph."""
        cosine = cosines(features).clamp_(max=1)  # rounding may give parallel tokens more
        # a token is its own neighbour, which rounding may deny one of length 0
        is_edge = (cosine > self.similarity).fill_diagonal_(True)
        edges = (cosine / self.temperature).masked_fill(~is_edge, -torch.inf).softmax(-1)
        importance = features.norm(dim=-1)
        for _ in range(self.iterations):
            importance = importance @ edges
        flow: Tensor = importance / is_edge.sum(-1)
        return flow
