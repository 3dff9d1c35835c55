"""MMTok (2025): keep the tokens that together cover the question's words and the image best."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from prunebench.methods.resprune import MARKER, chosen, rows_of
from torch import Tensor
from torch.nn.functional import normalize

from prunebench import (
    Keep,
    Pruner,
    Signal,
    Stage,
    VisualTokens,
    gram,
    greedy_cover,
    padding,
    pick_groups,
    register,
    require_finite,
    view_places,
)

INSTRUCTIONS = (
    "Answer the question using a single word or phrase.",
    "Answer with the option's letter from the given choices directly.",
)
"""What benchmarks add to a question, which is no part of it."""


@register(
    paper="https://arxiv.org/abs/2508.18264",
    code="https://github.com/Ironieser/MMTok",
    variant=(
        "our list of function words; every image and frame is covered by itself, all crops of an "
        "image together; unpadding and newlines are the model's"
    ),
)
@dataclass(frozen=True)
class MMTok(Pruner):
    """Greedy coverage of rows: for every word of the question the softmax over tokens of its cosine
    with the projected tokens, divided by the number of words; and for every token that of its
    cosines in the encoder's space, times `alpha` and divided by the number of tokens.

    Each pick adds most to the sum, over rows, of the largest value among the tokens taken.

    Settings:

    - `alpha`: how much covering the image counts against covering the question;
    - `text_temperature`, `image_temperature`: of the two softmaxes;
    - `words`: "content" for the question's words that are no function words, "all" for all rows of
      the prompt's text;
    - `skip_padding`: take what pads the image only when nothing else is left.
    """

    default_positions = "compact"
    alpha: float = 0.5
    text_temperature: float = 0.02
    image_temperature: float = 0.2
    words: str = "content"
    skip_padding: bool = False

    def __post_init__(self) -> None:
        if self.words not in ("content", "all"):
            raise ValueError(f"words is {self.words!r}; it is 'content' or 'all'")
        if self.alpha < 0 or self.text_temperature <= 0 or self.image_temperature <= 0:
            raise ValueError(
                f"alpha is {self.alpha:g} and the temperatures {self.text_temperature:g} and "
                f"{self.image_temperature:g}; they are 0 or more, and above 0"
            )

    @property
    def needs(self) -> frozenset[Signal]:
        signals = {Signal.ENCODER_FEATURES, Signal.TEXT_FEATURES}
        return frozenset(signals | {Signal.TEXT_PIECES} if self.words == "content" else signals)

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        """The picks of every image and frame; raises ValueError for features that are not
        finite.
        """
        projected = tokens.features
        require_finite(projected, "features")
        image = normalize(projected.float(), dim=-1)
        encoded = normalize(tokens.encoder_features[0].float(), dim=-1).to(image.device)
        text = normalize(tokens.text_features[self.rows(tokens)].float(), dim=-1).to(image.device)
        is_padding = padding(tokens) & self.skip_padding

        def pick(places: Tensor, count: int) -> Tensor:
            rows = self.coverage(text, image[places], encoded[places])
            skipped = is_padding[places.cpu()].to(places.device)
            others = (~skipped).nonzero()[:, 0]
            gains = torch.ones_like(rows[0, others])
            picks = others[greedy_cover(rows[:, others], gains, min(count, len(others)))]
            return places[torch.cat([picks, skipped.nonzero()[: count - len(picks), 0]])]

        return Keep(pick_groups(tokens, view_places(tokens), stage.keep, pick))

    def coverage(self, text: Tensor, image: Tensor, encoded: Tensor) -> Tensor:
        """[M + n, n] how well each token covers each word and each token; all of length 1: the
        words [M, D], the tokens [n, D] and what the encoder makes of them [n, D_v].
        """
        words = (text @ image.T / self.text_temperature).softmax(-1) / max(1, len(text))
        parts = (gram(encoded) / self.image_temperature).softmax(-1) / len(image)
        return torch.cat([words, self.alpha * parts])

    def rows(self, tokens: VisualTokens) -> list[int]:
        """The rows of `text_features` that the question's words are made of."""
        if self.words == "all":
            return list(range(len(tokens.text_features)))
        pieces = []
        for piece in tokens.text_pieces:
            # a marker becomes empty and stays: places in this list are rows of `text_features`
            pieces.append("" if MARKER.fullmatch(piece) else piece)
        # without the question the whole prompt is read, a word a piece
        question = " ".join(pieces) if tokens.question is None else tokens.question
        for instruction in INSTRUCTIONS:
            question = question.replace(instruction, "")
        rows: list[int] = rows_of(chosen(question, "content"), question, pieces)
        return rows
