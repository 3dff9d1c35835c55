"""IVC-Prune (ICLR 2026): keep what resembles the question by its values, and the places at which
rotary positions serve as coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import sqrt
from typing import Self

import torch
from torch import Tensor

from prunebench import (
    Budget,
    Facts,
    Keep,
    Pruner,
    Signal,
    Site,
    Stage,
    Unsupported,
    VisualTokens,
    llm,
    register,
    scaled_layer,
    solve,
    top,
)


@register(
    paper="https://arxiv.org/abs/2602.03060",
    code="https://github.com/FireRedTeam/IVC-Prune",
    variant="exactly as many as asked for: what the sets have in common is filled up by value, and "
    "other budgets scale all shares; the question is all text behind the image but its first "
    "`skipped` rows, and all of it where no more is there",
)
@dataclass(frozen=True)
class IVCPrune(Pruner):
    """Before layer `layer` keep the union of seeds, value tokens and coordinates; the caches of the
    layers before are cut to it, too.

    S is the softmax over the prompt of the products of the values in the layer before, averaged
    over heads, without a causal mask. Seeds are the `seeds` of the visual tokens with the largest
    mean S over the question's rows, value tokens the `values` with the largest mean over rows of
    seeds and question, coordinates the `coordinates` with the largest mean of cos(p theta_i) over
    the rotary frequencies, p the position id, and as many by the sine. Position ids on several axes
    count by the one on which the visual tokens differ most.

    `layer` is one of a model of `depth` layers; in others it lies at the same share of them.
    Without a budget the four shares of the tokens stay. `overlaps` leaves the union as it is, so
    that fewer survive, as official code does.
    """

    needs = frozenset(
        {Signal.PROMPT_VALUES, Signal.VISUAL_PLACES, Signal.TEXT_PLACES, Signal.POSITION_IDS}
    )
    work_by_shape = True
    layer: int = 16
    depth: int = 32
    seeds: float = 0.01
    values: float = 0.2
    coordinates: float = 0.05
    skipped: int = 2
    overlaps: bool = False
    frequencies: tuple[float, ...] = field(default=(), repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 1 <= self.layer < self.depth:
            raise ValueError(f"layer is {self.layer}; it lies in 1..{self.depth - 1}")
        if min(self.seeds, self.values, self.coordinates) < 0 or self.total > 1:
            raise ValueError(
                f"seeds is {self.seeds}, values {self.values} and coordinates {self.coordinates}; "
                "they are shares, and seeds, values and twice coordinates at most 1 in all"
            )

    @property
    def total(self) -> float:
        """What all sets would keep if they had nothing in common."""
        return self.seeds + self.values + 2 * self.coordinates

    @property
    def dynamic(self) -> bool:  # type: ignore[override]  # as a setting has it
        """Whether it may keep fewer tokens than it may, as official code does."""
        return self.overlaps

    def prepared(self, facts: Facts) -> Self:
        """The layer becomes that of the model, and its rotary frequencies are noted; raises
        Unsupported where it has none.
        """
        frequencies = self.frequencies or facts.frequencies
        if not frequencies:
            raise Unsupported(
                "ivc_prune keeps coordinates of rotary position embeddings, which this model does "
                "not have"
            )
        layer = scaled_layer(self.layer, self.depth, facts.layers)
        return replace(self, layer=layer, depth=facts.layers, frequencies=frequencies)

    def site(self) -> Site:
        return llm(before=self.layer)

    def plan(self, budget: Budget | None, available: int, layers: int) -> tuple[Stage, ...]:
        """One stage, which cuts the caches before it."""
        site = llm(before=scaled_layer(self.layer, self.depth, layers))
        if budget is None:
            seeds, values, coordinates = self.counts(available, 1.0)
            count = min(available, seeds + values + 2 * coordinates)
            return (Stage(site, max(1, count), compact=True),)
        return solve(budget, [site], available, layers, compact=True)

    def counts(self, available: int, scale: float) -> tuple[int, int, int]:
        """How many seeds, value tokens and coordinates of each kind, at `scale` times the shares.

        Half to even, as official code rounds.
        """
        seeds = max(1, round(self.seeds * scale * available))
        return (
            seeds,
            round(self.values * scale * available),
            round(self.coordinates * scale * available),
        )

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        """Seeds, coordinates, then the others by value; `overlaps` keeps the union alone."""
        sets = self.sets(tokens, min(stage.keep, len(tokens)))
        if self.overlaps:
            return Keep(sets["keep_union"])
        scores = sets["scores"]
        # above every value, seeds above coordinates
        first = torch.zeros_like(scores)
        first[sets["keep_positions"]] = 2.0
        first[sets["keep_seeds"]] = 4.0
        return Keep(top(scores + first, stage.keep))

    def sets(self, tokens: VisualTokens, count: int) -> dict[str, Tensor]:
        """`keep_seeds`, `keep_values`, `keep_positions` and their union, sorted places; `scores`
        [N] by which value tokens are ranked.
        """
        scale = 1.0 if self.overlaps else count / max(1e-9, self.total * len(tokens))
        seeds, values, coordinates = self.counts(len(tokens), min(1 / self.total, scale))
        device = tokens.prompt_values.device
        visual, question = tokens.visual_places.to(device), self.question(tokens).to(device)
        best = top(similarity(tokens.prompt_values, question)[visual], seeds)
        anchors = torch.cat([visual[best], question])
        scores = similarity(tokens.prompt_values, anchors)[visual]
        angles = self.angles(tokens).to(device)
        places = torch.cat(
            [
                top(angles.cos().mean(dim=1), coordinates),
                top(angles.sin().mean(dim=1), coordinates),
            ]
        )
        by_value = top(scores, values)
        return {
            "keep_seeds": best.sort().values,
            "keep_values": by_value.sort().values,
            "keep_positions": places.unique(),
            "keep_union": torch.cat([best, by_value, places]).unique(),
            "scores": scores,
        }

    def question(self, tokens: VisualTokens) -> Tensor:
        """The places of the question's rows in the prompt."""
        text, end = tokens.text_places, int(tokens.visual_places.max())
        behind = text[text > end]
        # a template may put everything in front of the image
        return behind[self.skipped :] if len(behind) > self.skipped else text

    def angles(self, tokens: VisualTokens) -> Tensor:
        """[N, d_h / 2] by which every pair of channels is turned at a token's place."""
        ids = tokens.position_ids[:, tokens.visual_places].float()  # [P, N]
        axis = (ids.amax(dim=1) - ids.amin(dim=1)).argmax()
        return ids[axis][:, None] * torch.tensor(self.frequencies, device=ids.device)

    def explain(self, tokens: VisualTokens, stage: Stage) -> dict[str, Tensor]:
        return self.sets(tokens, min(stage.keep, len(tokens)))


def similarity(values: Tensor, rows: Tensor) -> Tensor:
    """[S] how much, on average over heads and the prompt's `rows`, the values of each row resemble
    theirs; `values` [H, S, d_h].
    """
    states = values.float()
    products = states[:, rows] @ states.mT / sqrt(states.shape[-1])
    return products.softmax(dim=-1).mean(dim=(0, 1))
