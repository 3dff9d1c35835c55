"""VisionZip's vectors: CLS attention and raw keys in CLIP; attention received and rotated keys in
Qwen2.5-VL's encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from prunebench import Signal, Stage
from prunebench.testing.case import Case
from prunebench.testing.vectors import Vector

SETS = ("visionzip", "visionzip_qwen")


def cases(method: Any, vector: Vector) -> Iterator[Case]:
    """The vectors of CLIP merge what the encoder puts out, so that this is shown as features."""
    meta, tensors = vector.meta, vector.tensors
    tokens = vector.tokens()
    count = int(meta["expected_count"])
    contextual = meta["contextual"] / count
    if "received_attention" in tensors:
        pruner = method(contextual=contextual, attention="received")
        attention = {Signal.RECEIVED_ATTENTION: tensors["received_attention"][None, None]}
        keys, arranged = tensors["keys"], prompt_answers(vector)
    else:
        pruner = method(contextual=contextual)
        attention = {Signal.CLS_ATTENTION: vector.cls_attention([meta["score_layer"]])}
        keys, arranged = tensors["keys"][:, 1:], rows_answers(tensors["cls_feature"])
        tokens = replace(tokens, features=tensors["encoder_features"])
    tokens = replace(tokens, signals={**attention, Signal.ENCODER_KEYS: keys[None]})
    yield Case(pruner, (Stage(pruner.site(), count),), tokens, arranged=arranged)


def rows_answers(cls: Tensor) -> Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]:
    """The rows as the official code for LLaVA has them: the CLS token, patches, contextual ones."""

    def arranged(answers: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        index = torch.cat([answers["keep_dominant"], answers["keep_contextual"]])
        rows = answers["merged_features"][torch.searchsorted(answers["keep"], index)]
        return {
            "output_index": torch.cat([torch.tensor([-1]), index]),
            "merged_features": torch.cat([cls[None], rows]),
        }

    return arranged


def prompt_answers(vector: Vector) -> Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]:
    """What the indices kept say of the prompt: all its text stays, and ids are those of before."""
    prompt = vector.meta["prompt"]
    before, behind = prompt["tokens_before_image"], prompt["tokens_after_image"]
    rows, columns = vector.tensors["grid"].tolist()

    def arranged(answers: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        keep = answers["keep"]
        text = torch.arange(before).expand(3, -1)
        image = torch.stack([torch.zeros_like(keep), keep // columns, keep % columns]) + before
        first = before + max(rows, columns)
        rest = (first + torch.arange(behind)).expand(3, -1)
        return {
            "output_index": keep,
            "position_ids": torch.cat([text, image, rest], dim=1),
        }

    return arranged
