"""DART (EMNLP 2025): keep what duplicates a few pivots least, whatever attention says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import normalize

from prunebench import (
    INPUT,
    Facts,
    Keep,
    Pruner,
    Reads,
    Signal,
    Site,
    Stage,
    VisualTokens,
    llm,
    register,
    require_finite,
    share,
    top,
)


@register(
    paper="https://arxiv.org/abs/2502.11494",
    code="https://github.com/ZichenWen1/DART",
    variant="exactly as many as asked for, where the authors' code keeps its pivots on top and "
    "rounds what each takes down; pivots in the order of their norms, not of a hash table; the "
    "engine's form has no least number of tokens below which nothing is dropped",
)
@dataclass(frozen=True)
class DART(Pruner):
    """Each of a few pivots keeps those of the remaining tokens whose states have the smallest
    cosine to its own.

    Pivots are the `image_pivots` visual tokens and the `text_pivots` rows of text behind the first
    of these with the largest L1 norm of their keys in the layer before `layer`, all heads together;
    states are those that enter it, behind the model's final norm. Visual pivots go first, by
    descending norm. A pivot takes what is still missing over the pivots still to come, rounded up.

    `states` "embeddings" is the form that TensorRT Edge-LLM runs: at the input, on the embeddings
    for both norms and cosines, with a quota by size and pivots of their own for every contiguous
    run of visual tokens. `set_order` takes the pivots in the order of a set in CPython, as the
    authors' code does.
    """

    work_by_shape = True
    layer: int = 2
    image_pivots: int = 4
    text_pivots: int = 4
    states: str = "layer"
    set_order: bool = False
    norm: Callable[[Tensor], Tensor] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.states not in ("layer", "embeddings"):
            raise ValueError(f"states is {self.states!r}; it is 'layer' or 'embeddings'")
        if self.image_pivots < 1 or self.text_pivots < 0:
            raise ValueError(
                f"image_pivots is {self.image_pivots} and text_pivots {self.text_pivots}; there "
                "is 1 of the image or more, and 0 of the text or more"
            )

    def prepared(self, facts: Facts) -> Self:
        """The model's final norm is noted."""
        return self if self.norm is not None else replace(self, norm=facts.norm)

    @property
    def needs(self) -> frozenset[Signal]:
        return self.reads.signals

    @property
    def reads(self) -> Reads:
        signals = {Signal.TEXT_FEATURES, Signal.TEXT_PLACES, Signal.VISUAL_PLACES}
        if self.states == "layer":
            signals.add(Signal.PROMPT_KEYS)
        return Reads(frozenset(signals))

    def site(self) -> Site:
        return INPUT if self.states == "embeddings" else llm(before=self.layer)

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        """The tokens of all runs, each run's pivots first."""
        return Keep(self.explain(tokens, stage)["chosen"])

    def explain(self, tokens: VisualTokens, stage: Stage) -> dict[str, Tensor]:
        """`chosen` places; `image_pivots` among them; `text_pivots`, places in the prompt;
        `budgets` of the runs.
        """
        require_finite(tokens.features, "features")
        of_image, of_text = self.norms(tokens)
        text = top(of_text, min(self.text_pivots, int((of_text >= 0).sum())))
        states, beside = self.placed(tokens.features), self.placed(tokens.text_features[text])
        runs = self.runs(tokens)
        sizes = torch.tensor([len(run) for run in runs])
        budgets = share(min(stage.keep, len(tokens)), sizes)
        kept, pivots = [], []
        for run, count in zip(runs, budgets, strict=True):
            own = run[top(of_image[run], min(self.image_pivots, count))]
            order = torch.arange(len(own) + len(text))
            if self.set_order:
                places = [tokens.visual_places[own.cpu()], tokens.text_places[text.cpu()]]
                order = _as_a_set(torch.cat(places))
            similarity = torch.cat([states[own], beside])[order] @ states[run].T
            is_pivot = torch.isin(run, own)
            others = _unlike(similarity.masked_fill(is_pivot, torch.inf), count - len(own))
            kept += [own, run[others]]
            pivots.append(own)
        return {
            "chosen": torch.cat(kept),
            "image_pivots": torch.cat(pivots),
            "text_pivots": tokens.text_places[text.cpu()],
            "budgets": torch.tensor(budgets),
        }

    def norms(self, tokens: VisualTokens) -> tuple[Tensor, Tensor]:
        """[N] and [M] L1 norms of the visual rows and of the text's."""
        if self.states == "embeddings":
            rows = tokens.features, tokens.text_features
            return rows[0].float().abs().sum(dim=1), rows[1].float().abs().sum(dim=1)
        norms = tokens.prompt_keys.float().abs().sum(dim=(0, 2))  # [S]
        text, visual = tokens.text_places, tokens.visual_places
        # text in front of the image is no pivot
        of_text = norms[text.to(norms.device)].masked_fill(
            (text < visual.min()).to(norms.device), -torch.inf
        )
        return norms[visual.to(norms.device)], of_text

    def placed(self, rows: Tensor) -> Tensor:
        """[n, D] unit vectors of states."""
        if self.states == "layer" and self.norm is not None:
            rows = self.norm(rows)
        return normalize(rows.float(), dim=-1)

    def runs(self, tokens: VisualTokens) -> list[Tensor]:
        """The places of visual tokens that share a quota."""
        places = torch.arange(len(tokens), device=tokens.features.device)
        if self.states == "layer":
            return [places]
        gaps = tokens.visual_places.diff() != 1
        starts = (gaps.nonzero()[:, 0] + 1).tolist()
        return list(places.tensor_split(starts))


def _unlike(similarity: Tensor, count: int) -> Tensor:
    """[count] columns: of `similarity` [P, n] every row takes those of its smallest values that are
    still there, infinite ones never.
    """
    columns: list[Tensor] = []
    for number in range(len(similarity)):
        # what is missing over the pivots still to come, rounded up
        quota = -(-(count - sum(len(one) for one in columns)) // (len(similarity) - number))
        column = similarity[number].sort(stable=True).indices[:quota]
        similarity = similarity.index_fill(1, column, torch.inf)
        columns.append(column)
    return torch.cat(columns)


def _as_a_set(places: Tensor) -> Tensor:
    """The order in which CPython goes through a set of these numbers."""
    numbers = places.tolist()
    return torch.tensor([numbers.index(number) for number in set(numbers)])
