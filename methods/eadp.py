"""EADP (ECCV 2026): cover the image with tokens weighed by their relevance to those words that pick
something out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from prunebench import (
    Keep,
    Pruner,
    Signal,
    Stage,
    VisualTokens,
    cosines,
    fill,
    greedy_cover,
    quotas,
    register,
    require_finite,
    scaled,
    tile_places,
    top,
    view_places,
    views,
    with_newlines,
)

SHARPNESS, FEW, WIDTH = 100.0, 0.2, 0.01
"""By what cosines are multiplied before the softmax, which share of a text's tokens counts, and the
temperature of their weights.
"""


@register(
    paper="https://github.com/SJTU-DeepVisionLab/EADP",
    code="https://github.com/SJTU-DeepVisionLab/EADP",
    variant=(
        "parts of the budget are rounded to its sum, where official code rounds each down; every "
        "grid is smoothed, and every image and frame scaled by itself; unpadding and newlines are "
        "the model's"
    ),
)
@dataclass(frozen=True)
class EADP(Pruner):
    """A token's relevance is `alpha` times minus its cosine with the text in CLIP's space plus
    1 - `alpha` times minus that with the text's tokens, of which a fifth count, those whose softmax
    over patches has the least entropy, weighed by it.

    It is scaled to 0..1 over an image, smoothed on the grid by a 3 x 3 Gaussian, and raised to
    `beta`. Tiles share the budget by its sums, and in each the tokens are taken greedily that add
    most to how well all are covered: sum_i w_i max(0, (1 + cos(x_i, x_j)) / 2 - c_i).

    A model whose encoder is no CLIP's compares its tokens with the text's rows in the language
    model's space and with their mean, with a plus.

    `official`: round every tile's part down, to one at least, so that fewer may survive.
    """

    default_positions = "compact"
    work_by_shape = True
    alpha: float = 0.5
    beta: float = 1.0
    official: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1 or self.beta < 0:
            raise ValueError(
                f"alpha is {self.alpha:g} and beta {self.beta:g}; "
                "the one is a share in 0..1, the other is 0 or more"
            )

    @property
    def needs(self) -> frozenset[Signal]:
        return frozenset({Signal.CLIP_PATCHES, Signal.CLIP_TEXT, Signal.CLIP_TEXT_TOKENS})

    @property
    def stand_ins(self) -> Mapping[Signal, Signal | None]:
        return dict.fromkeys(self.needs, Signal.TEXT_FEATURES)

    @property
    def dynamic(self) -> bool:  # type: ignore[override]  # a setting decides
        return self.official

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        """Tile after tile in the order of choice; raises ValueError for features or relevance that
        are not finite.
        """
        require_finite(tokens.features, "features")
        weights = self.score(tokens)
        require_finite(weights, "relevance")
        kept = [torch.empty(0, dtype=torch.int64, device=weights.device)]
        tiles = tile_places(tokens, newlines=False)
        counts = self.budgets(tokens, weights, stage.keep)
        for places, count in zip(tiles, counts, strict=True):
            if count > 0:
                likeness = cosines(tokens.features[places]).add_(1).div_(2)
                gains = torch.ones_like(likeness[0])
                kept.append(places[greedy_cover(likeness, gains, count, weights[places])])
        index = torch.cat(kept)[: stage.keep]
        return Keep(index if self.official else with_newlines(tokens, index, stage.keep))

    def budgets(self, tokens: VisualTokens, weights: Tensor, count: int) -> list[int]:
        """How many tokens each tile keeps, by the sum of its weights; an image by its size."""
        tiles = tile_places(tokens, newlines=False)
        counts = [0] * len(tiles)
        for view, quota in zip(views(tokens), quotas(view_places(tokens), count), strict=True):
            sums = torch.stack([weights[tiles[number]].sum() for number in view]).double().cpu()
            room = torch.tensor([len(tiles[number]) for number in view])
            if self.official:
                exact = sums / sums.sum().clamp(min=1e-12) * quota
                parts = exact.long().clamp(min=1).minimum(room).tolist()
            else:
                parts = fill(quota, sums, room)
            for number, part in zip(view, parts, strict=True):
                counts[number] = part
        return counts

    def score(self, tokens: VisualTokens) -> Tensor:
        """[N] the weights w; 0 for newlines."""
        raw = self.relevance(tokens).to(tokens.features.device)
        weights = torch.zeros_like(raw)
        for places in view_places(tokens):
            weights[places] = scaled(raw[places])
        for number, places in enumerate(tile_places(tokens, newlines=False)):
            if len(places):
                weights[places] = _smoothed(tokens, number, places, weights[places])
        return weights**self.beta

    def relevance(self, tokens: VisualTokens) -> Tensor:
        """[N] how relevant each token is, the mean over texts."""
        if Signal.CLIP_PATCHES in tokens.signals:
            patches, sign = tokens.clip_patches, -1.0
            texts, words = tokens.clip_text, tokens.clip_text_tokens
        else:
            patches, sign, words = tokens.features, 1.0, tokens.text_features[None]
            texts = words.float().mean(1)
        unit = normalize(patches.float(), dim=-1)
        whole = sign * unit @ normalize(texts.float(), dim=-1).to(unit.device).T  # [N, M]
        single = sign * unit @ normalize(words.float(), dim=-1).to(unit.device).mT  # [M, N, L]
        relevance = torch.zeros_like(whole)
        for places in tile_places(tokens, newlines=False):
            own = places.to(unit.device)
            if len(own):
                local = _of_words(single[:, own])
                relevance[own] = self.alpha * whole[own] + (1 - self.alpha) * local.mT
        return relevance.mean(1)

    def explain(self, tokens: VisualTokens, stage: Stage) -> dict[str, Tensor]:
        weights = self.score(tokens)
        budgets = self.budgets(tokens, weights, stage.keep)
        return {"scores": weights, "budgets": torch.tensor(budgets)}


def _of_words(cosines: Tensor) -> Tensor:
    """[M, n] the weighted sum, over those of a text's L words that pick something out, of `cosines`
    [M, n, L] with a tile's n tokens.
    """
    logs = (SHARPNESS * cosines).log_softmax(1)
    entropy = -(logs.exp() * logs).sum(1)  # [M, L]
    count = max(1, int(FEW * cosines.shape[2]))
    of_texts = []
    for own, sharp in zip(cosines, entropy, strict=True):
        words = top(-sharp, count)
        weights = (-sharp[words] / WIDTH).softmax(0)
        of_texts.append((own[:, words] * weights).sum(1))
    return torch.stack(of_texts)


def _smoothed(tokens: VisualTokens, number: int, places: Tensor, values: Tensor) -> Tensor:
    """[n] a tile's values after a 3 x 3 Gaussian of deviation 1, reflected at the borders."""
    tile = tokens.tiles[number]
    row = tokens.row[places.cpu()].to(values.device)
    column = tokens.column[places.cpu()].to(values.device)
    grid = values.new_zeros(tile.rows, tile.columns)
    grid[row, column] = values
    side = torch.tensor([-1.0, 0, 1], device=values.device)
    kernel = (-side.square() / 2).exp()
    kernel = kernel / kernel.sum()
    for axis in (0, 1):
        lines = []
        for numbers in _reflected(grid.shape[axis]):
            lines.append(grid.index_select(axis, numbers.to(grid.device)))
        stacked = torch.stack(lines).to(kernel)
        grid = (stacked * kernel[:, None, None]).sum(0)
    return grid[row, column]


def _reflected(length: int) -> list[Tensor]:
    """The numbers of the lines before, at and behind each of so many lines."""
    lines = []
    for step in (-1, 0, 1):
        line = (torch.arange(length) + step).abs()
        lines.append(torch.where(line >= length, 2 * length - 2 - line, line).clamp(min=0))
    return lines
