"""Relevance: how like the question a token is, in CLIP's space or in the language model's."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from prunebench.signals import Signal
from prunebench.tokens import VisualTokens

RELEVANCE_STAND_INS: dict[Signal, Signal | None] = {
    Signal.CLIP_PATCHES: Signal.TEXT_FEATURES,
    Signal.CLIP_TEXT: Signal.TEXT_FEATURES,
}
"""What `Pruner.stand_ins` says of `question_cosines` for encoders that are no CLIP's."""


def question_cosines(tokens: VisualTokens, negative: bool | None = None) -> Tensor:
    """[N] the mean cosine between a patch and the texts, in float32: of CLIP's where these are
    shown, else of the tokens and the text's rows in the language model's space.

    CLIP's are taken negative, because they were found inverted (CDPruner's authors), unless
    `negative` says otherwise.
    """
    of_clip = Signal.CLIP_PATCHES in tokens.signals
    patches = tokens.clip_patches if of_clip else tokens.features
    texts = tokens.clip_text if of_clip else tokens.text_features
    unit, words = normalize(patches.float(), dim=-1), normalize(texts.float(), dim=-1)
    cosines = (unit @ words.to(unit.device).T).mean(1)
    is_negative = of_clip if negative is None else negative
    return -cosines if is_negative else cosines


def scaled(values: Tensor) -> Tensor:
    """The values in 0..1 by their least and largest, with 1e-6 above and below the line."""
    if not len(values):
        return values
    low, high = torch.aminmax(values)
    return (values - low + 1e-6) / (high - low + 1e-6)
