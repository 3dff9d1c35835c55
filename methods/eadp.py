"""EADP (ECCV 2026): cover what the words that point somewhere ask for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import conv2d, normalize, pad

from prunebench import (
    Keep,
    Pruner,
    Signal,
    Stage,
    VisualTokens,
    fill,
    greedy_cover,
    register,
    require_finite,
    tile_places,
    views,
    with_newlines,
)

EPSILON = 1e-6
SHARPNESS, SHARE, TEMPERATURE = 100.0, 0.2, 0.01
"""Of the softmax over patches, of the words that stay, and of the weights that these get."""


@register(
    paper="https://arxiv.org/abs/2607.02484",
    code="https://github.com/SJTU-DeepVisionLab/EADP",
    variant=(
        "quotas of crops are met exactly, where official code truncates them; grids of any shape "
        "are smoothed; unpadding and newlines are the model's"
    ),
)
@dataclass(frozen=True)
class EADP(Pruner):
    """Greedy facility location in every tile on (1 + cos) / 2 of the features, each token to be
    covered weighed by its importance; a tile's share of the budget is by its summed importance.

    In CLIP's space a token is as important as it is unlike the question: minus the cosine to the
    texts, and minus that to every word, of which a fifth stays, those whose softmax over the tile's
    patches has the lowest entropy H, weighed by a softmax of -H / 0.01. The mix of both is scaled
    to 0..1 over an image, smoothed by a Gaussian of 3 x 3 and sigma 1, and raised to a power.
    Models whose encoder is no CLIP's compare their tokens with the text's rows in the language
    model's space, with a plus.

    Settings:

    - `alpha`: the part of the whole text in the mix; `beta`: the power;
    - `truncated`: the budget whose quotas are rounded down as official code does, at least 1 each,
      which loses tokens; None spends all.
    """

    default_positions = "compact"
    alpha: float = 0.5
    beta: float = 1.0
    truncated: int | None = None

    @property
    def needs(self) -> frozenset[Signal]:
        return frozenset({Signal.CLIP_PATCHES, Signal.CLIP_TEXT, Signal.CLIP_TEXT_TOKENS})

    @property
    def stand_ins(self) -> Mapping[Signal, Signal]:
        return dict.fromkeys(self.needs, Signal.TEXT_FEATURES)

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        """The picks of every tile; raises ValueError for features or scores not finite."""
        groups = tile_places(tokens, newlines=False)
        scores = self.score(tokens, groups)
        require_finite(tokens.features, "features")
        unit = normalize(tokens.features.float(), dim=-1)
        kept = [torch.empty(0, dtype=torch.int64, device=unit.device)]
        for places, count in zip(groups, self.budgets(scores, groups, stage.keep), strict=True):
            if count > 0:
                likeness = (1 + unit[places] @ unit[places].T) / 2
                even = torch.ones_like(scores[places])
                kept.append(places[greedy_cover(likeness, even, count, scores[places])])
        return Keep(with_newlines(tokens, torch.cat(kept), stage.keep))

    def budgets(self, scores: Tensor, groups: list[Tensor], count: int) -> list[int]:
        """How many tokens of each tile stay."""
        sums = torch.stack([scores[places].sum() for places in groups])
        limits = torch.tensor([len(places) for places in groups])
        if self.truncated is None:
            return fill(count, sums, limits)
        exact = sums.double() / sums.double().sum() * self.truncated
        return [max(1, int(part)) for part in exact]

    def score(self, tokens: VisualTokens, groups: list[Tensor]) -> Tensor:
        """[N] the importance of every token; 0 for newlines."""
        mixed = self.relevance(tokens, groups)
        require_finite(mixed, "relevance")
        scores = torch.zeros_like(mixed)
        for view in views(tokens):
            places = torch.cat([groups[number] for number in view])
            if len(places):
                low, high = mixed[places].min(), mixed[places].max()
                scores[places] = (mixed[places] - low + EPSILON) / (high - low + EPSILON)
        for number, tile in enumerate(tokens.tiles):
            if len(groups[number]) == tile.rows * tile.columns > 0:
                grid = scores[groups[number]].view(tile.rows, tile.columns)
                scores[groups[number]] = smoothed(grid).flatten()
        return scores**self.beta

    def relevance(self, tokens: VisualTokens, groups: list[Tensor]) -> Tensor:
        """[N] the mix of what the whole text and its words ask for, averaged over texts."""
        patches, texts, words = self.embeddings(tokens)
        mixed = torch.zeros_like(patches[:, 0])
        for places in groups:
            if not len(places):
                continue
            own = patches[places]
            of_text = own @ texts.T  # [n, M]
            of_words = words @ own.T  # [M, L, n]
            parts = (SHARPNESS * of_words).softmax(-1)
            entropy = -(parts * parts.clamp(min=1e-12).log()).sum(-1)
            count = max(1, int(SHARE * words.shape[1]))
            lowest = entropy.sort(dim=-1, stable=True)
            weights = (-lowest.values[:, :count] / TEMPERATURE).softmax(-1)
            some_words = of_words.gather(
                1, lowest.indices[:, :count, None].expand(-1, -1, len(own))
            )
            of_chosen = (weights[..., None] * some_words).sum(1).T  # [n, M]
            mixed[places] = (self.alpha * of_text + (1 - self.alpha) * of_chosen).mean(1)
        return mixed

    def embeddings(self, tokens: VisualTokens) -> tuple[Tensor, Tensor, Tensor]:
        """[N, P] tokens, [M, P] texts and [M, L, P] words, of length 1, whose products are
        relevance.
        """
        device = tokens.features.device
        if Signal.CLIP_PATCHES in tokens.signals:
            # minus: in CLIP's space what is asked for is what is unlike
            patches = -normalize(tokens.clip_patches.float(), dim=-1)
            texts, words = tokens.clip_text.float(), tokens.clip_text_tokens.float()
        else:
            patches = normalize(tokens.features.float(), dim=-1)
            words = tokens.text_features.float()[None]
            texts = words.mean(1)
        texts, words = normalize(texts, dim=-1), normalize(words, dim=-1)
        return patches.to(device), texts.to(device), words.to(device)

    def explain(self, tokens: VisualTokens, stage: Stage) -> dict[str, Tensor]:
        groups = tile_places(tokens, newlines=False)
        scores = self.score(tokens, groups)
        budgets = self.budgets(scores, groups, stage.keep)
        return {"scores": scores, "budgets": torch.tensor(budgets)}


def smoothed(grid: Tensor) -> Tensor:
    """[rows, columns] a map behind a Gaussian of 3 x 3, sigma 1, its border mirrored; a single row
    or column has no neighbour to mirror and is repeated.
    """
    line = torch.exp(-torch.tensor([1.0, 0.0, 1.0], device=grid.device) / 2)
    line = line / line.sum()
    kernel = line[:, None] * line
    padded = grid[None, None]
    for axis, sides in ((-1, (1, 1, 0, 0)), (-2, (0, 0, 1, 1))):
        mode = "reflect" if padded.shape[axis] > 1 else "replicate"
        padded = pad(padded, sides, mode=mode)
    return conv2d(padded, kernel[None, None])[0, 0]
