"""MMTok: coverage of words and image by hand, which words count, and padding left for last."""

from __future__ import annotations

from typing import Any

import torch

from prunebench import INPUT, Layout, Signal, Stage, Tile, VisualTokens, registry

EYE = torch.eye(4)


def sample(
    features: Any, encoded: Any, text: Any, region: Any = (0.0, 0.0, 1.0, 1.0)
) -> VisualTokens:
    layout = Layout((Tile(1, len(features), region=region),))
    pieces = ("what", "colour", "is", "the", "cat")[: len(text)]
    signals = {
        Signal.ENCODER_FEATURES: encoded[None],
        Signal.TEXT_FEATURES: text,
        Signal.TEXT_PIECES: pieces,
    }
    return VisualTokens(
        features, layout, torch.arange(len(features)), question=" ".join(pieces), signals=signals
    )


def order(tokens: VisualTokens, count: int, **settings: Any) -> list[int]:
    pruner = registry.build("mmtok", settings)
    return pruner.prune(tokens, Stage(INPUT, count)).index.tolist()


def test_a_token_for_every_word_then_for_the_image() -> None:
    encoded = EYE[[0, 0, 0, 1]]
    # the words look like tokens 1 and 2; the encoder tells 3 from the others
    tokens = sample(EYE, encoded, EYE[[1, 2]])
    assert sorted(order(tokens, 2, words="all")) == [1, 2]
    assert order(tokens, 3, words="all")[2] == 3
    # where the image counts for much more than words, one that stands for three comes first
    picks = order(tokens, 2, words="all", alpha=100.0)
    assert picks[1] == 3


def test_function_words_and_instructions_do_not_count() -> None:
    text = EYE[[0, 1, 0, 0, 2]]
    tokens = sample(EYE, EYE, text)
    mmtok: Any = registry.build("mmtok")
    # "colour" and "cat"
    assert sorted(order(tokens, 2)) == [1, 2]
    assert mmtok.rows(tokens) == [1, 4]


def test_padding_comes_last() -> None:
    # the two tokens on the right lie beside the image
    tokens = sample(EYE, EYE, EYE[[2, 3]], region=(0.0, 0.0, 2.0, 1.0))
    assert sorted(order(tokens, 2, words="all")) == [2, 3]
    assert sorted(order(tokens, 2, words="all", skip_padding=True)) == [0, 1]
    assert order(tokens, 4, words="all", skip_padding=True)[2:] == [2, 3]
