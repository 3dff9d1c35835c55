"""ResPrune (2026): keep the tokens that the ones kept before reconstruct worst, the question's
nouns weighing the residuals.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from prunebench import (
    FUNCTION_WORDS,
    Keep,
    ProductRows,
    Pruner,
    Signal,
    Stage,
    VisualTokens,
    greedy_span,
    register,
    require_finite,
)

RESIDUE = 1e-5
"""The share of a token's energy below which float32 cannot tell a residual from rounding."""

WORD = re.compile(r"[^\W_]+(?:-[^\W_]+)*|['\u2019][^\W_]+|[^\w\s]")
MARKER = re.compile(r"\s*(<[^<>]*>|\[[A-Z_]+\])\s*")
"""What chat templates and tokenizers put between words."""

Span = tuple[int, int]
"""Where in a text a word begins and ends."""


@register(paper="https://arxiv.org/abs/2603.21105", reconstruction=True)
@dataclass(frozen=True)
class ResPrune(Pruner):
    """Greedy pivoting: take argmax_j e_j r_j^alpha, e_j the squared part of token j that the tokens
    taken do not span.

    The paper's is the selection by residual energy, weighed by r^alpha: r is the largest cosine
    between a token and the nouns' rows of the language model's input embeddings, behind the
    projector. There is no official code, and what the paper leaves open is ours:

    - `alpha`, which it tunes by hand;
    - the min-max scaling of r to `floor`..1, without which negative cosines have no power;
    - raw features of all crops together;
    - newline tokens last, and before them, once everything is spanned, the rest by e_j r_j^alpha as
      it was at first.

    A question without nouns falls back on its content words, without those on r = 1. Update and
    selection run in float32, as a pivoted Cholesky factorisation of the Gram matrix, O(k N (D +
    k)).

    Settings:

    - `alpha`: how much relevance counts;
    - `floor`: the least relevance, above 0, so that no token is out of reach;
    - `space`: "raw" features, "unit" ones of length 1, or "centred" ones, less their mean;
    - `nouns`: which of the question's words count. "tagger": the nouns by HanTa's tagger;
      "content": all but function words; "all": every word; "none": r = 1. "auto" becomes "tagger"
      where HanTa is installed, else "content", and is recorded as that.
    """

    default_positions = "compact"
    alpha: float = 0.5
    floor: float = 0.05
    space: str = "raw"
    nouns: str = "auto"

    def __post_init__(self) -> None:
        if self.nouns == "auto":
            # the dataclass is frozen, and the record must say which of the two ran
            object.__setattr__(self, "nouns", "tagger" if find_spec("HanTa") else "content")
        if self.nouns not in ("tagger", "content", "all", "none"):
            raise ValueError(
                f"nouns is {self.nouns!r}; it is 'auto', 'tagger', 'content', 'all' or 'none'"
            )
        if self.nouns == "tagger" and not find_spec("HanTa"):
            raise ValueError(
                "nouns is 'tagger', which needs HanTa: pip install 'prunebench[nouns]'"
            )
        if self.space not in ("raw", "unit", "centred"):
            raise ValueError(f"space is {self.space!r}; it is 'raw', 'unit' or 'centred'")
        if not 0 < self.floor <= 1:
            raise ValueError(
                f"floor is {self.floor:g}; it lies in (0, 1], for no token may be out of reach"
            )

    @property
    def needs(self) -> frozenset[Signal]:
        if self.nouns == "none":
            return frozenset()
        return frozenset({Signal.TEXT_FEATURES, Signal.TEXT_PIECES})

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        """The pivots among the patches; newlines fill what is left. Raises ValueError for features
        or weights that are not finite.
        """
        places = (~tokens.newline).nonzero()[:, 0].to(tokens.features.device)
        features = tokens.features[places].float()
        weights = self.relevance(features, tokens) ** self.alpha
        require_finite(features, "features")
        require_finite(weights, "relevance")
        picks = pivots(self.placed(features), weights, min(stage.keep, len(places)))
        newlines = tokens.newline.nonzero()[:, 0].to(places)
        rest = newlines[: stage.keep - len(picks)]
        return Keep(torch.cat([places[picks], rest]))

    def placed(self, features: Tensor) -> Tensor:
        """[N, D] the vectors whose span is to be covered."""
        if self.space == "unit":
            return normalize(features, dim=-1)
        if self.space == "centred":
            return features - features.mean(0)
        return features

    def relevance(self, features: Tensor, tokens: VisualTokens) -> Tensor:
        """[N] r in `floor`..1; ones where the question has no words to ask for."""
        rows = [] if self.nouns == "none" else self.rows(tokens)
        if not rows:
            return torch.ones_like(features[:, 0])
        unit = normalize(features, dim=-1)
        words = normalize(tokens.text_features[rows].float(), dim=-1)
        closest = (unit @ words.T).amax(1)
        low, high = closest.aminmax()
        stretched = (closest - low) / (high - low).clamp(min=1e-12)
        return stretched * (1 - self.floor) + self.floor

    def rows(self, tokens: VisualTokens) -> list[int]:
        """The rows of `text_features` that the chosen words are made of."""
        pieces = []
        for piece in tokens.text_pieces:
            # a marker becomes empty and stays: places in this list are rows of `text_features`
            pieces.append("" if MARKER.fullmatch(piece) else piece)
        # without the question the whole prompt is read, a word a piece
        text = " ".join(pieces) if tokens.question is None else tokens.question
        return rows_of(chosen(text, self.nouns), text, pieces)


def pivots(vectors: Tensor, weights: Tensor, count: int) -> Tensor:
    """[count] places in the order of choice; `vectors` [N, D] in float32, `weights` [N] of their
    residual energies.
    """
    rows = ProductRows(vectors, count)
    return greedy_span(vectors.square().sum(1), rows, count, RESIDUE, weights)


def chosen(text: str, which: str) -> list[Span]:
    """From where to where in `text` the words lie that `which` names."""
    matches = list(WORD.finditer(text))
    if which == "tagger":
        is_noun = tagged([match[0] for match in matches])
        nouns = [match.span() for match, noun in zip(matches, is_noun, strict=True) if noun]
        if nouns:
            return nouns
    words = [match.span() for match in matches if match[0][-1].isalnum()]
    if which == "all":
        return words
    return [span for span in words if _is_content(text[slice(*span)])]


def _is_content(word: str) -> bool:
    """Whether it is no function word."""
    return word.strip("'\u2019").casefold() not in FUNCTION_WORDS


def tagged(words: Sequence[str]) -> list[bool]:
    """Whether each of a sentence's words is a noun, by the C5 tags NN0, NN1, NN2 and NP0."""
    if not words:
        return []
    tags = [tag for _, _, tag in _tagger().tag_sent(list(words))]
    return [tag.startswith(("NN", "NP")) for tag in tags]


@lru_cache(maxsize=1)
def _tagger() -> Any:
    from HanTa.HanoverTagger import HanoverTagger

    return HanoverTagger("morphmodel_en.pgz")


def rows_of(spans: Sequence[Span], text: str, pieces: Sequence[str]) -> list[int]:
    """The pieces of a prompt in which the parts `spans` of `text` stand, where it stands last;
    letters and digits count alone.

    A prompt that does not repeat the text letter by letter is searched for single pieces that are
    one of the words.
    """
    letters = [bare(piece) for piece in pieces]
    owners: list[int] = []  # of every letter of the prompt, the piece that it stands in
    for row, of_piece in enumerate(letters):
        owners += [row] * len(of_piece)
    start = "".join(letters).rfind(bare(text))
    if start < 0:
        words = {bare(text[slice(*span)]) for span in spans}
        return [row for row, of_piece in enumerate(letters) if of_piece in words]
    rows: set[int] = set()
    for first, end in spans:
        # counted behind `bare`, for casefold may make two letters of one
        first_letter = start + len(bare(text[:first]))
        end_letter = start + len(bare(text[:end]))
        rows.update(owners[first_letter:end_letter])
    return sorted(rows)


def bare(text: str) -> str:
    """What tokenizers and templates leave of a text: its letters and digits, in one case."""
    return "".join(sign for sign in text.casefold() if sign.isalnum())
