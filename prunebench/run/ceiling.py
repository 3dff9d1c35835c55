"""Ceiling: the least that a method's time could come to beside the unpruned model's, were it
arithmetic alone, or memory alone, and selection free.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from torch import nn

from prunebench.engine.trace import SampleTrace
from prunebench.measure.flops import Flops, decode, head
from prunebench.models.base import Family
from prunebench.study.columns import declared
from prunebench.study.record import Metric

LITTLE = 0.02
"""Where even the ceiling saves no more than this, the share of it that was reached is noise."""


@dataclass(frozen=True)
class Work:
    """What a batch asks of the device, without the method's own work.

    `vision` is the encoder with the projector, `prefill` the decoder layers and the head up to the
    first token, `decode` all later steps, in FLOPs. `step_bytes` are the weights that a step reads
    once for the batch, and the keys and values of every prompt.
    """

    vision: float
    prefill: float
    decode: float
    step_bytes: float

    @property
    def total(self) -> float:
        """FLOPs of the whole call."""
        return self.vision + self.prefill + self.decode

    @classmethod
    def sum(cls, works: Sequence[Work]) -> Work:
        """What several batches ask for, one after the other."""
        whole = cls(0, 0, 0, 0)
        for work in works:
            values = [getattr(whole, one.name) + getattr(work, one.name) for one in fields(cls)]
            whole = cls(*values)
        return whole


@dataclass(frozen=True)
class Ceilings:
    """Ratios method / unpruned: FLOPs of the prefill and of the whole call, bytes that a decoding
    step reads; 1 where nothing could be saved.
    """

    prefill: float
    decode: float
    total: float


def work_of(
    model: Any,
    family: Family,
    costs: Sequence[Flops],
    traces: Sequence[SampleTrace],
    new_tokens: int,
) -> Work:
    """The work of a batch whose prompts cost `costs` and left these traces."""
    text, steps = model.config.get_text_config(), new_tokens - 1
    answers = 0
    for trace in traces:
        cached = [visual + trace.text for visual in trace.cached]
        answers += decode(text, cached, steps, family.layer_flops) + head(text, steps)
    return Work(
        vision=sum(cost.vision + cost.projector for cost in costs),
        prefill=sum(cost.llm + cost.head for cost in costs),
        decode=answers,
        step_bytes=step_weights(model, family) + sum(trace.kv_bytes for trace in traces),
    )


def step_weights(model: Any, family: Family) -> int:
    """Bytes of the weights that a decoding step reads: the decoder layers and what makes logits. Of
    experts it reads fewer, so that with them this is an upper bound.
    """
    # by identity, for two modules may share one
    weights = {id(one): one for one in family.layers(model).parameters()}
    logits: nn.Module = model.get_output_embeddings()
    weights |= {id(one): one for one in logits.parameters()}
    return sum(one.numel() * one.element_size() for one in weights.values())


def ceilings(method: Work, unpruned: Work) -> Ceilings:
    """What the ratios of the phases could come to."""
    return Ceilings(
        prefill=method.prefill / unpruned.prefill,
        decode=method.step_bytes / unpruned.step_bytes,
        total=method.total / unpruned.total,
    )


def reached(ratio: float, ceiling: float) -> float | None:
    """The share of what could be saved that was: 1 at the ceiling, 0 where nothing was, negative
    where time was lost; None where there was next to nothing to save.
    """
    return None if 1 - ceiling < LITTLE else (1 - ratio) / (1 - ceiling)


def shares(limits: Ceilings, metrics: Sequence[Metric]) -> list[Metric]:
    """The ceilings of a cell whose `metrics` hold its ratios, and the shares of them that were
    reached, where there was something to reach.
    """
    ratios = {metric.metric: metric.value for metric in metrics}
    numbers = []
    for phase in [field.name for field in fields(Ceilings)]:
        ceiling: float = getattr(limits, phase)
        numbers.append(_number(f"{phase}_ceiling", ceiling))
        ratio = ratios.get(f"latency_{phase}_ratio")
        share = None if ratio is None else reached(ratio, ceiling)
        if share is not None:
            numbers.append(_number(f"{phase}_reached", share))
    return numbers


def _number(name: str, value: float) -> Metric:
    column = declared(name)
    return Metric(name, value, column.unit, higher_is_better=column.higher_is_better)
