"""MaskCLIP++ (2024): keep the tokens of those masked things that a CLIP finds most like what the
question names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from prunebench import (
    FUNCTION_WORDS,
    Example,
    Facts,
    Reads,
    ScorePruner,
    Signal,
    Trained,
    VisualTokens,
    pooled,
    register,
    top,
)

UNCOVERED, FIRST = -1e3, 1e4
"""What sets tokens of no mask behind all others, and the tokens that `cover` asks for before them.
"""


@register(
    paper="https://arxiv.org/abs/2412.11464",
    code="https://github.com/HVision-NKU/MaskCLIPpp",
    variant="ranks tokens by their masks' logits; the paper's classifies the masks, and drops nothing",
    reconstruction=True,
)
@dataclass(frozen=True)
class MaskCLIP(Trained, ScorePruner):
    """Rank by max_q m_q(j) rho_q: how much of token j mask q covers, times how well q matches the
    question.

    An oracle: the masks are the caller's, on the built-in scenes the true ones.

    The paper's: mask embeddings v_q = sum_j m_q(j) f_j / (sum_j m_q(j) + 1e-6) (its form for
    convolutional CLIPs), the logits a C + b of C[q, n] = `scale` cos(v_q, e_n) with one `template`,
    which cannot re-order what CLIP ranks right, and the largest of a mask's names. Ours: f_j are
    CLIP's final norm and projection of the patches behind a token, thumbnail and crops together;
    the CLIP is the encoder's own, without the paper's fine-tuning; names are the question's runs of
    words between function words, or the whole question; rho is the softmax over the masks and a
    "none of them" of logit 0, trained by cross-entropy with the masks that mostly show the
    evidence. Tokens of no mask come last, by their own cosine to the names, newlines behind them.
    `cover` tokens of every mask come first, those that it covers most.

    Without weights a is 1 and b 0: what `weights` "none" asks for, and what "" falls back on where
    a model has none. `clip` is a hub id or folder, "" the CLIP that the model's encoder came from.
    """

    default_positions = "compact"
    optional = True
    needs = frozenset({Signal.MASKS, Signal.CLIP_PATCHES, Signal.CLIP_TEXT})
    template: str = "a photo of a {}."
    scale: float = 100.0
    cover: int = 0
    clip: str = ""

    def __post_init__(self) -> None:
        if "{}" not in self.template:
            raise ValueError(f"template is {self.template!r}; it needs a {{}} for the name")

    @property
    def reads(self) -> Reads:
        return Reads(self.needs, texts=self.texts, clip=self.clip)

    def texts(self, question: str) -> tuple[str, ...]:
        """CLIP's texts: the names of things in the question, each in the template."""
        return tuple(self.template.format(name) for name in named(question) or (question,))

    def score(self, tokens: VisualTokens) -> Tensor:
        names, patches = (
            normalize(rows.float(), dim=-1) for rows in (tokens.clip_text, tokens.clip_patches)
        )
        scores = UNCOVERED + (patches @ names.mT).amax(1)
        scores = scores.masked_fill(
            tokens.layout.newline[tokens.index].to(scores.device), -torch.inf
        )
        shown = covered(tokens).to(patches)
        if len(shown) == 0:
            return scores
        matched = (
            (shown.log() + self.matches(tokens, shown)[:-1, None])
            .amax(0)
            .clamp(min=0.9 * UNCOVERED)
        )
        scores = torch.where(shown.amax(0) > 0, matched, scores)
        first = [top(mask, min(self.cover, int((mask > 0).sum()))) for mask in shown]
        return scores + torch.zeros_like(scores).index_fill(0, torch.cat(first), FIRST)

    def matches(self, tokens: VisualTokens, shown: Tensor) -> Tensor:
        """[Q + 1] log of rho, how likely each mask, of which `shown` [Q, N] is seen, is what the
        question names; then none.
        """
        embeddings = (
            shown @ tokens.clip_patches.float()
        )  # means but for their length, which a cosine does not see
        names = normalize(tokens.clip_text.float(), dim=-1)
        logits = self.scale * (normalize(embeddings, dim=-1) @ names.mT)
        if self.module is not None:
            logits = self.module.to(logits.device)(logits[..., None])[..., 0]
        return torch.cat([logits.amax(1), logits.new_zeros(1)]).log_softmax(0)

    # ---- weights ---------------------------------------------------------------------------------

    @classmethod
    def sizes(cls, facts: Facts) -> dict[str, Any]:
        return {"templates": 1, "channels": 768}

    @classmethod
    def build(cls, sizes: Mapping[str, Any]) -> nn.Module:
        """The paper's W_2 W_1, without anything between them: for one template nothing but a C + b."""
        return nn.Sequential(
            nn.Linear(int(sizes["templates"]), int(sizes["channels"])),
            nn.Linear(int(sizes["channels"]), 1),
        )

    def loss(self, example: Example) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy with the masks more than half of which is evidence, or with none where
        there is no such mask.

        `hit` says whether the likeliest mask is one of these, `chance` how likely a random one
        would be; `slope` is a.
        """
        if self.module is None:
            raise ValueError(
                "maskclip has no weights to train: prepared() brings them, weights='random' fresh ones"
            )
        shown = covered(example.tokens).to(example.tokens.clip_patches.device)
        right = shown @ example.target.to(shown) > 0.5 * shown.sum(1)
        matches = self.matches(example.tokens, shown)
        loss = -matches[torch.cat([right, ~right.any()[None]])].logsumexp(0)
        ends: Tensor = self.module(loss.new_tensor([[0.0], [1.0]]))
        figures = {"mask_loss": float(loss.detach()), "slope": float(ends.detach().diff(dim=0))}
        if right.any():
            figures |= {
                "hit": float(right[matches[:-1].argmax()]),
                "chance": float(right.float().mean()),
            }
        return loss, figures


def named(question: str) -> tuple[str, ...]:
    """What a question names: its runs of words between function words and punctuation, each once."""
    words = re.findall(r"\w+(?:-\w+)*|[^\w\s]", question)
    runs = groupby(
        words, key=lambda word: word[-1].isalnum() and word.casefold() not in FUNCTION_WORDS
    )
    return tuple(dict.fromkeys(" ".join(run) for content, run in runs if content))


def covered(tokens: VisualTokens) -> Tensor:
    """[Q, N] the share of every token's region that each mask of its image covers; masks that no
    token shows are left out.
    """
    found = [torch.empty(0, len(tokens))]
    blank = [torch.zeros(1, 1, 1)] * len(tokens.masks)
    for image, masks in enumerate(tokens.masks):
        for mask in masks:
            maps = [*blank[:image], mask[None].float(), *blank[image + 1 :]]
            found.append(pooled(tokens.layout, maps)[None, tokens.index])
    shown = torch.cat(found)
    return shown[shown.sum(1) > 0]
