"""CDPruner (NeurIPS 2025): keep the subset of largest determinant, each token weighed by its
relevance to the question.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import normalize

from prunebench import (
    RELEVANCE_STAND_INS,
    Keep,
    ProductRows,
    Pruner,
    Reads,
    Signal,
    Stage,
    VisualTokens,
    greedy_map,
    question_cosines,
    quotas,
    register,
    require_finite,
    tile_places,
    view_places,
    with_newlines,
)

EPSILON = 1e-6


@register(
    paper="https://arxiv.org/abs/2506.10967",
    code="https://github.com/Theia-4869/CDPruner",
    variant=(
        "unpadding and newlines are the model's; what the tokens taken span already follows by "
        "relevance, where official code repeats tokens"
    ),
)
@dataclass(frozen=True)
class CDPruner(Pruner):
    """Greedy maximum of a determinantal point process with the kernel r_i cos(x_i, x_j) r_j, tile
    by tile.

    The relevance r is minus the mean cosine between a patch and the question in CLIP's space: minus
    on purpose, for the authors found it inverted in this CLIP. It is scaled to 0..1 over all tiles
    together. Models whose encoder is no CLIP's compare their tokens with the text's rows in the
    language model's space, with a plus, as OpenVINO does.

    Settings:

    - `engine`: "authors", or "openvino" for what OpenVINO GenAI makes of it: relevance in the
      language model's space, the kernel (1 - w) cos + w r cos r, and every image or frame of more
      than `split` tokens cut into two halves, each with its own scaling, kernel and half of the
      budget;
    - `relevance`: "clip", "text" (the language model's space), or "auto";
    - `negative`: whether relevance is minus the cosine; None leaves it to the two settings above;
    - `clip`: a hub id or folder, "" the CLIP that the model's encoder came from;
    - `weight`, `split`: OpenVINO's w, and from how many tokens on it halves, 0 for never.
    """

    default_positions = "compact"
    work_by_shape = True
    engine: str = "authors"
    relevance: str = "auto"
    negative: bool | None = None
    weight: float = 0.5
    split: int = 1
    clip: str = ""

    def __post_init__(self) -> None:
        if self.engine not in ("authors", "openvino"):
            raise ValueError(f"engine is {self.engine!r}; it is 'authors' or 'openvino'")
        if self.relevance not in ("auto", "clip", "text"):
            raise ValueError(f"relevance is {self.relevance!r}; it is 'auto', 'clip' or 'text'")
        if not 0 <= self.weight <= 1 or self.split < 0:
            raise ValueError(
                f"weight is {self.weight:g} and split {self.split}; "
                "the one lies in 0..1, the other is 0 or more"
            )

    @property
    def needs(self) -> frozenset[Signal]:
        of_text = self.relevance == "text" or (self.is_openvino and self.relevance == "auto")
        if of_text:
            return frozenset({Signal.TEXT_FEATURES})
        return frozenset({Signal.CLIP_PATCHES, Signal.CLIP_TEXT})

    @property
    def reads(self) -> Reads:
        return Reads(self.needs, clip=self.clip)

    @property
    def stand_ins(self) -> Mapping[Signal, Signal | None]:
        return RELEVANCE_STAND_INS if self.relevance == "auto" else {}

    @property
    def is_openvino(self) -> bool:
        """Whether it does as OpenVINO GenAI."""
        return self.engine == "openvino"

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        """The picks of every part; raises ValueError for features or relevance not finite."""
        parts, counts = self.parts(tokens, stage.keep)
        scores = self.score(tokens, parts)
        require_finite(tokens.features, "features")
        require_finite(scores, "relevance")
        kept = [torch.empty(0, dtype=torch.int64, device=scores.device)]
        for places, count in zip(parts, counts, strict=True):
            if count > 0:
                unit = normalize(tokens.features[places].float(), dim=-1)
                likeness = ProductRows(unit)
                blend = self.weight if self.is_openvino else 1.0
                kernel = Kernel(likeness, scores[places].to(unit.device), blend)
                variance = kernel.weighed(likeness.squares, kernel.relevance)
                kept.append(places[greedy_map(variance, kernel, count)])
        return Keep(with_newlines(tokens, torch.cat(kept), stage.keep))

    def parts(self, tokens: VisualTokens, count: int) -> tuple[list[Tensor], list[int]]:
        """Places of patches that are chosen among by themselves, and how many of each part stay."""
        if not self.is_openvino:
            tiles = tile_places(tokens, newlines=False)
            return tiles, quotas(tiles, count)
        parts, counts = [], []
        groups = view_places(tokens)
        for places, quota in zip(groups, quotas(groups, count), strict=True):
            if self.split == 0 or len(places) <= self.split:
                parts.append(places)
                counts.append(quota)
                continue
            middle = len(places) // 2
            parts += [places[:middle], places[middle:]]
            counts += [quota // 2, quota - quota // 2]
        return parts, counts

    def score(self, tokens: VisualTokens, parts: list[Tensor]) -> Tensor:
        """[N] relevance in 0..1; 0 for newlines."""
        cosines = question_cosines(tokens, self.negative)
        scores = torch.zeros_like(cosines)
        if self.is_openvino:
            for places in parts:
                low, high = _bounds(cosines[places])
                scores[places] = (cosines[places] - low) / (high - low + EPSILON)
            return scores
        patches = torch.cat(parts)
        low, high = _bounds(cosines[patches])
        # the clamp is for patches that are all alike
        extent = (high - low).clamp(min=EPSILON)
        scores[patches] = (cosines[patches] - low + EPSILON) / extent
        return scores

    def explain(self, tokens: VisualTokens, stage: Stage) -> dict[str, Tensor]:
        parts, counts = self.parts(tokens, stage.keep)
        return {"scores": self.score(tokens, parts), "budgets": torch.tensor(counts)}


@dataclass(frozen=True)
class Kernel:
    """Rows of how alike the tokens of a part are, of which the share `weight` is weighed by their
    `relevance` [n].
    """

    likeness: ProductRows
    relevance: Tensor
    weight: float

    @property
    def device(self) -> torch.device:
        """Where rows come out."""
        return self.likeness.device

    def on(self, device: torch.device) -> Self:
        """The same rows, coming out on that device."""
        relevance = self.relevance.to(device)
        return replace(self, likeness=self.likeness.on(device), relevance=relevance)

    def row(self, pick: Tensor, promise: Tensor) -> Tensor:
        """[n] that of `pick` [1]; see `ProductRows.row`."""
        return self.weighed(self.likeness.row(pick, promise), self.relevance[pick])

    def weighed(self, likeness: Tensor, relevance: Tensor) -> Tensor:
        """[n] entries of the kernel from cosines [n] with tokens of that relevance, [n] or [1]."""
        weighed = relevance * likeness * self.relevance
        if self.weight == 1:
            return weighed
        return (1 - self.weight) * likeness + self.weight * weighed


def _bounds(values: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the largest of them; zeros where there are none."""
    if not len(values):
        nothing = values.new_zeros(())
        return nothing, nothing
    return values.min(), values.max()
