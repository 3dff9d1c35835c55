"""DUET-VLM's vectors: CLS attention and raw keys of an encoder, and a tiny LLaMA for the stages in
the language model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from prunebench import Signal, Stage, llm
from prunebench.testing.case import Case
from prunebench.testing.decoder import Decoder
from prunebench.testing.vectors import Vector

SETS = ("duet_vlm", "duet_vlm_llm")


def cases(method: Any, vector: Vector) -> Iterator[Case]:
    """The first stage merges what the encoder puts out, so that this is shown as features."""
    meta, tensors, tokens = vector.meta, vector.tensors, vector.tokens()
    if "layer_list" in meta:
        layers, ratios = meta["layer_list"], meta["image_token_ratio_list"]
        stages = []
        for layer, ratio in zip(layers, ratios, strict=True):
            stages.append(Stage(llm(before=layer), int(len(tokens) * ratio)))
        pruner = method(layers=tuple(layers), ratios=tuple(ratios))
        # the attention of every stage is the model's own
        encoder = {
            Signal.CLS_ATTENTION: torch.zeros(1, 1, len(tokens)),
            Signal.ENCODER_KEYS: torch.zeros(1, 1, len(tokens), 1),
        }
        decoder = Decoder.read(vector, encoder)
        yield Case(pruner, tuple(stages), tokens, decoder=decoder, alone=False)
        return
    count = int(meta["expected_count"])
    contextual, width = meta["contextual"] / count, meta["cluster_width"]
    pruner = method(contextual=contextual, width=width, layers=(), ratios=())
    signals = {
        Signal.CLS_ATTENTION: vector.cls_attention([22]),
        Signal.ENCODER_KEYS: tensors["keys"][None, :, 1:],
    }
    tokens = replace(tokens, features=tensors["encoder_features"], signals=signals)
    arranged = behind_cls_row(tensors["cls_feature"])
    yield Case(pruner, (Stage(pruner.site(), count),), tokens, arranged=arranged)


def behind_cls_row(cls: Tensor) -> Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]:
    """The rows as official code has them, the CLS token first."""

    def arranged(answers: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        rows = answers["merged_features"]
        rows = rows[torch.searchsorted(answers["keep"], answers["order"])]
        return {
            "output_index": torch.cat([torch.tensor([-1]), answers["order"]]),
            "merged_features": torch.cat([cls[None], rows]),
        }

    return arranged
