"""SparseVLM+'s vectors: embeddings, and the text's attention of every stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from prunebench import INPUT, Signal, Stage, llm
from prunebench.testing.case import Case
from prunebench.testing.vectors import Vector


def cases(method: Any, vector: Vector) -> Iterator[Case]:
    """The input comes first, where the raters are chosen; the vector's stages follow.

    The text stands right behind the image.
    """
    meta = vector.meta
    half = meta["head_size"] // 2
    frequencies = tuple(meta["rope_theta"] ** (-index / half) for index in range(half))
    pruner = method(heads=meta["selected_heads"], frequencies=frequencies)
    tokens, start = vector.tokens(), meta["image_start"]
    stages = [Stage(INPUT, len(tokens))]
    for layer, count in zip(meta["layers"], meta["counts"], strict=True):
        stages.append(Stage(llm(before=layer + 1), count))

    def observe(
        stage: int, index: Tensor, features: Tensor
    ) -> tuple[Tensor, Mapping[Signal, Tensor]]:
        text = vector.tensors["text_embeds"]
        if stage == 0:
            return features, {Signal.TEXT_FEATURES: text}
        behind = start + len(tokens) + torch.arange(len(text))
        return features, {
            Signal.TEXT_ATTENTION: vector.tensors[f"stage{stage - 1}.llm_attention"],
            # places in a prompt that keeps its length: here places and ids are one
            Signal.POSITION_IDS: torch.arange(start + len(tokens) + len(text))[None],
            Signal.VISUAL_PLACES: start + index,
            Signal.TEXT_PLACES: behind,
        }

    def retold(answers: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The vector's stages begin behind the input."""
        named = {"keep": answers["keep"], "raters": answers["raters"]}
        for number in range(len(meta["counts"])):
            for name in ("scores", "heads", "keep"):
                named[f"stage{number}.{name}"] = answers[f"stage{number + 1}.{name}"]
        return named

    yield Case(pruner, tuple(stages), tokens, observe, renamed=retold)
