"""AutoPrune's vectors: CLS attention, and the text's attention in layers 0 and 1."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from prunebench import Signal, Stage, llm
from prunebench.testing.case import Case
from prunebench.testing.vectors import Vector


def cases(method: Any, vector: Vector) -> Iterator[Case]:
    """The second stage leaves the count open. Which dropped tokens are merged is not compared, so
    that states may be any.
    """
    meta, tensors = vector.meta, vector.tensors
    tokens = vector.tokens()
    count = len(tokens)
    pruner = method(
        tokens=round(meta["budget"] * 576 / count),
        steepness=meta["k0"],
        gamma=meta["gamma"],
        centre=meta["x0"],
        depth=meta["layers"],
    )
    most = pruner.most(count, meta["budget"])
    stages = (Stage(llm(before=1), most), Stage(llm(before=2), most))
    of_cls = vector.cls_attention([22])

    def observe(
        stage: int, index: Tensor, features: Tensor
    ) -> tuple[Tensor, Mapping[Signal, Tensor]]:
        rows = tensors[f"stage{stage}.llm_attention"]
        return features, {Signal.TEXT_ATTENTION: rows, Signal.CLS_ATTENTION: of_cls[..., index]}

    def retold(answers: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Merged tokens stand behind those that stay and are left out."""
        kept = answers["stage1.order"][: int(answers["keep_counts"][0])]
        information = [answers["stage0.information"], answers["stage1.information"]]
        return {
            **answers,
            "keep": kept,
            "stage1.keep": kept,
            "mutual_information": torch.stack(information),
        }

    states = torch.eye(count, 8)
    yield Case(pruner, stages, replace(tokens, features=states), observe, renamed=retold)
