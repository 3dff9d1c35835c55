"""CDPruner's vectors: CLIP's embeddings, or for OpenVINO the language model's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from prunebench import Signal, Stage
from prunebench.testing.case import Case
from prunebench.testing.vectors import Vector

SETS = ("cdpruner", "cdpruner_openvino")


def cases(method: Any, vector: Vector) -> Iterator[Case]:
    """The authors' budget is one of each tile."""
    meta, tensors, tokens = vector.meta, vector.tensors, vector.tokens()
    if "clip_image_embeds" in tensors:
        pruner = method()
        signals = {
            Signal.CLIP_PATCHES: tensors["clip_image_embeds"].flatten(0, -2),
            Signal.CLIP_TEXT: tensors["clip_text_embeds"],
        }
    else:
        pruner = method(
            engine="openvino",
            negative=meta["use_negative_relevance"],
            weight=meta["relevance_weight"],
            split=meta["split_threshold"],
        )
        signals = {Signal.TEXT_FEATURES: tensors["text_embeds"]}
    stage = Stage(pruner.site(), int(meta["expected_count"]))
    yield Case(pruner, (stage,), replace(tokens, signals=signals))
