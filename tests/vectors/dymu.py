"""DyMU's vectors: keys of some blocks, of the rows as they stand before every merge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from prunebench import Rows, Signal, Stage, vision
from prunebench.testing.case import Case
from prunebench.testing.vectors import Vector


def cases(method: Any, vector: Vector) -> Iterator[Case]:
    """A stage is shown the keys in reading order, the patches' alone."""
    meta, tensors = vector.meta, vector.tensors
    first = int(meta["class_token"])
    features = tensors["encoder_features"][first:]
    thresholds = meta["thresholds"]
    stages = [Stage(vision(before=n + 1), len(features)) for n in range(len(thresholds))]
    orders = row_orders(vector, len(features))

    def observe(
        stage: int, _index: Tensor, features: Tensor
    ) -> tuple[Tensor, Mapping[Signal, Tensor]]:
        keys = tensors[f"stage{stage}.keys"][None, :, first:]
        return features, {Signal.ENCODER_KEYS: keys[:, :, orders[stage].argsort()]}

    def arranged(answers: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        alive = torch.arange(len(features))
        owner, counts = alive.clone(), []
        for number in range(len(thresholds)):
            own = {name: answers[f"stage{number}.{name}"] for name in NAMES}
            sources, targets = alive[own["merge_source"]], alive[own["merge_target"]]
            moves = torch.arange(len(features)).index_copy(0, sources, targets)
            owner = moves[owner]
            counts.append(len(sources))
            alive, before = own["keep"], alive
        order = before[answers["output_index"]]
        row = torch.empty(len(features), dtype=torch.int64)
        row[order] = torch.arange(len(order)) + first
        cls = tensors["encoder_features"][:first]
        rows = answers["merged_features"][torch.searchsorted(alive, order)]
        ones = torch.ones(first, dtype=torch.int64)
        return {
            "assignment": torch.cat([torch.zeros_like(ones), row[owner]]),
            "merged_counts": torch.tensor(counts),
            "merged_features": torch.cat([cls, rows]),
            "output_sizes": torch.cat([ones, answers["output_sizes"].long()]),
        }

    pruner = method(thresholds=tuple(thresholds), class_token=bool(first))
    tokens = replace(vector.tokens(), features=features)
    yield Case(pruner, tuple(stages), tokens, observe, arranged=arranged)


NAMES = ("merge_source", "merge_target", "keep")


def row_orders(vector: Vector, count: int) -> list[Tensor]:
    """Per stage, the patches alive in the order of the rows of its keys."""
    first = int(vector.meta["class_token"])
    orders = [torch.arange(count)]
    for number, threshold in enumerate(vector.meta["thresholds"]):
        order = orders[-1]
        metric = vector.tensors[f"stage{number}.keys"][:, first:].mean(0)
        rows = Rows(order, metric, metric, torch.ones(len(order)), bool(first))
        orders.append(rows.merged(rows.pairs(rows.above(threshold))).order)
    return orders
