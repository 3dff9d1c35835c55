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
    variant="ranks tokens by their masks' logits; "
    "the paper's classifies the masks, and drops nothing",
    reconstruction=True,
)
@dataclass(frozen=True)
class MaskCLIP(Trained, ScorePruner):
    """Rank by max_q m_q(j) rho_q: how much of token j mask q covers, times how well q matches the
    question.

    An oracle: the masks are the caller's, on the built-in scenes the true ones.

    The paper's:

    - the mask embeddings v_q = sum_j m_q(j) f_j / (sum_j m_q(j) + 1e-6), its form for convolutional
      CLIPs;
    - the logits a C + b of C[q, n] = `scale` cos(v_q, e_n) with one `template`, which cannot
      re-order what CLIP ranks right, and the largest of a mask's names.

    Ours:

    - f_j are CLIP's final norm and projection of the patches behind a token, thumbnail and crops
      together; the CLIP is the encoder's own, without the paper's fine-tuning;
    - names are the question's runs of words between function words, or the whole question;
    - rho is the softmax over the masks and a "none of them" of logit 0, trained by cross-entropy
      with the masks that mostly show the evidence;
    - tokens of no mask come last, by their own cosine to the names, newlines behind them.

    Settings:

    - `template`: the text about a name that CLIP is asked about;
    - `scale`: what cosines are multiplied by;
    - `cover`: so many tokens of every mask come first, those that it covers most;
    - `clip`: a hub id or folder, "" the CLIP that the model's encoder came from;
    - `weights`: "none" asks for a = 1 and b = 0, and "" falls back on it where a model has no
      weights.
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
        """[N] log probability of the best mask that covers a token, by how much it does; below
        0.9 `UNCOVERED` for tokens of no mask, -inf for newlines.
        """
        names = normalize(tokens.clip_text.float(), dim=-1)
        patches = normalize(tokens.clip_patches.float(), dim=-1)
        newline = tokens.newline.to(patches.device)
        scores = UNCOVERED + (patches @ names.mT).amax(1)
        scores = scores.masked_fill(newline, -torch.inf)
        coverage = covered(tokens).to(patches)  # [Q, N]
        if len(coverage) == 0:
            return scores
        # [Q, N], -inf where a mask covers nothing of a token
        of_masks = coverage.log() + self.matches(tokens, coverage)[:-1, None]
        # however little a mask covers, its tokens stay before those of none, at UNCOVERED +- 1
        of_best = of_masks.amax(0).clamp(min=0.9 * UNCOVERED)
        scores = torch.where(coverage.amax(0) > 0, of_best, scores)
        first = []
        for mask in coverage:
            count = min(self.cover, int((mask > 0).sum()))
            first.append(top(mask, count))
        # filled, not added: a token that two masks ask for comes first once
        return scores + torch.zeros_like(scores).index_fill(0, torch.cat(first), FIRST)

    def matches(self, tokens: VisualTokens, coverage: Tensor) -> Tensor:
        """[Q + 1] log of rho, how likely each mask, which covers `coverage` [Q, N] of the tokens,
        is what the question names; then how likely none is.
        """
        # means but for their length, which a cosine does not see
        embeddings = coverage @ tokens.clip_patches.float()
        names = normalize(tokens.clip_text.float(), dim=-1)
        logits = self.scale * (normalize(embeddings, dim=-1) @ names.mT)
        if self.module is not None:
            # [Q, names, 1]: the one template is the channel
            logits = self.module.to(logits.device)(logits[..., None])[..., 0]
        return torch.cat([logits.amax(1), logits.new_zeros(1)]).log_softmax(0)

    # ---- weights ---------------------------------------------------------------------------------

    @classmethod
    def sizes(cls, facts: Facts) -> dict[str, Any]:
        """As in the paper, for one template; nothing depends on the model."""
        return {"templates": 1, "channels": 768}

    @classmethod
    def build(cls, sizes: Mapping[str, Any]) -> nn.Module:
        """The paper's W_2 W_1, with nothing between them: for one template no more than a C + b."""
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
                "maskclip has no weights to train: "
                "prepared() brings them, weights='random' fresh ones"
            )
        coverage = covered(example.tokens).to(example.tokens.clip_patches.device)
        evidence = coverage @ example.target.to(coverage)
        right = evidence > 0.5 * coverage.sum(1)
        matches = self.matches(example.tokens, coverage)
        none_is_right = ~right.any()[None]
        loss = -matches[torch.cat([right, none_is_right])].logsumexp(0)
        # the two maps are one line, a C + b: two points of it give a
        ends: Tensor = self.module(loss.new_tensor([[0.0], [1.0]]))
        slope = ends.detach().diff(dim=0)
        figures = {"mask_loss": float(loss.detach()), "slope": float(slope)}
        if right.any():
            figures |= {
                "hit": float(right[matches[:-1].argmax()]),
                "chance": float(right.float().mean()),
            }
        return loss, figures


def named(question: str) -> tuple[str, ...]:
    """What a question names: every run of words between function words and punctuation, once."""
    words = re.findall(r"\w+(?:-\w+)*|[^\w\s]", question)
    runs = groupby(words, key=_is_content)
    return tuple(dict.fromkeys(" ".join(run) for is_content, run in runs if is_content))


def _is_content(word: str) -> bool:
    """Whether it is neither punctuation nor a function word."""
    return word[-1].isalnum() and word.casefold() not in FUNCTION_WORDS


def covered(tokens: VisualTokens) -> Tensor:
    """[Q, N] the share of every token's region that each mask of its image covers; masks that no
    token shows are left out.
    """
    rows = [torch.empty(0, len(tokens))]
    blank = torch.zeros(1, 1, 1)  # of the other images
    for image, masks in enumerate(tokens.masks):
        for mask in masks:
            maps = [blank] * len(tokens.masks)
            maps[image] = mask[None].float()
            rows.append(pooled(tokens.layout, maps)[None, tokens.index])
    coverage = torch.cat(rows)
    return coverage[coverage.sum(1) > 0]
