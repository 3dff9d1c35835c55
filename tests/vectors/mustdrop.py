"""MustDrop's vectors: the text's attention of every stage with CLS attention; and states behind the
encoder's first block.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from prunebench import Signal, Stage, llm, vision
from prunebench.testing.case import Case
from prunebench.testing.vectors import Vector

SETS = ("mustdrop", "mustdrop_merge")


def cases(method: Any, vector: Vector) -> Iterator[Case]:
    """Thresholds decide, so that the stages allow everything."""
    meta, tensors = vector.meta, vector.tensors
    if vector.name.startswith("mustdrop_merge"):
        tokens = replace(vector.tokens(vector.tiles()), features=tensors["encoder_features"])
        stage = Stage(vision(before=1), len(tokens))

        def arranged(answers: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
            """The CLS row, the windows by similarity, and all others."""
            keep, last = answers["keep"], answers["windows"][:, -1]
            order = torch.cat([last, keep[~torch.isin(keep, last)]])
            rows = answers["merged_features"][torch.searchsorted(keep, order)]
            sizes = torch.where(torch.isin(order, last), 9, 1)
            return {
                "output_index": torch.cat([order.new_tensor([-1]), order]),
                "merged_features": torch.cat([tensors["cls_feature"][None], rows]),
                "output_sizes": torch.cat([sizes.new_tensor([1]), sizes]),
            }

        pruner = method(similarity=meta["threshold"])
        yield Case(pruner, (stage,), tokens, arranged=arranged)
        return
    tokens = vector.tokens()
    shares, least = zip(*meta["thresholds"], strict=True)
    pruner = method(merge=False, shares=shares, least=least, protected=meta["key_share"])
    layers = pruner.layers[: meta["stages"]]
    stages = tuple(Stage(llm(before=layer + 1), len(tokens)) for layer in layers)
    of_cls = vector.cls_attention([meta["score_layer"]])

    def observe(
        stage: int, index: Tensor, features: Tensor
    ) -> tuple[Tensor, Mapping[Signal, Tensor]]:
        rows = tensors[f"stage{stage}.llm_attention"]
        return features, {Signal.TEXT_ATTENTION: rows, Signal.CLS_ATTENTION: of_cls[..., index]}

    yield Case(pruner, stages, tokens, observe)
