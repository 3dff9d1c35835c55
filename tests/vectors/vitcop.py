"""ViTCoP's vectors: attention and keys of the encoder; the shallow stage with clusters given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from prunebench import INPUT, Signal, Stage, llm
from prunebench.testing.case import Case
from prunebench.testing.vectors import Vector

SETS = ("vitcop", "vitcop_merge")


def cases(method: Any, vector: Vector) -> Iterator[Case]:
    """Keys of the encoder have the CLS row first."""
    meta, tensors = vector.meta, vector.tensors
    tokens, count = vector.tokens(), int(vector.meta["expected_count"])
    if vector.name.startswith("vitcop_merge"):
        image = vector.image()
        tokens = replace(
            tokens,
            features=tensors["hidden_states"][image],
            memo={"vitcop clusters": tensors["component"]},
            signals={Signal.KEYS: tensors["llm_keys"][:, image]},
        )

        def retold(answers: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
            """Rows that no other was merged into are as they were."""
            is_same = (answers["merged_features"] == tokens.features[answers["keep"]]).all(dim=1)
            return {**answers, "keep_selected": answers["keep"][is_same]}

        yield Case(method(), (Stage(llm(before=2), count),), tokens, renamed=retold)
        return
    signals = {
        Signal.CLS_ATTENTION: vector.cls_attention([22]),
        Signal.ENCODER_KEYS: tensors["keys"][None, :, 1:],
    }
    pruner = method(centres=meta["cluster_percentage"])
    yield Case(pruner, (Stage(INPUT, count),), replace(tokens, signals=signals))
