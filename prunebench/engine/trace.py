"""Trace: what a session did, per sample."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from time import perf_counter

import torch
from torch import Tensor

from prunebench.budget import Kind, Stage, spent
from prunebench.engine.counter import counter
from prunebench.sites import Part, Site
from prunebench.tokens import Layout


@dataclass
class SampleTrace:
    """One sample's prefill.

    `kept` maps a site to the original visual indices [K] alive behind it, ascending; `entering` and
    `cached` are [layers] visual tokens entering a layer and left in its cache; `text` counts the
    text tokens (no padding). `selector_flops` is None unless the session counts FLOPs. `notes` say
    what a reader should know of this sample. `kv_bytes` are the bytes of its live keys and values
    in all layers right after the prefill, `kv_bytes_padded` the same with what pads it to the
    length of the batch's longest sample.
    """

    layout: Layout
    available: int
    text: int
    stages: tuple[Stage, ...]
    kept: dict[Site, Tensor] = field(default_factory=dict)
    entering: list[int] = field(default_factory=list)
    cached: list[int] = field(default_factory=list)
    selector_flops: int | None = None
    notes: list[str] = field(default_factory=list)
    kv_bytes: int = 0
    kv_bytes_padded: int = 0

    def spent(self, kind: Kind = "mean") -> float:
        """Visual tokens spent, counted the way a budget of that kind counts them."""
        return spent(kind, self.entering, self.cached)

    def alive(self, layer: int) -> Tensor:
        """[K] original visual indices that enter LLM layer `layer`, ascending."""
        passed = [site for site in self.kept if site.part is not Part.LLM or site.layer <= layer]
        return self.kept[max(passed)] if passed else torch.arange(self.available)

    def survivors(self) -> Tensor:
        """[K] original visual indices that reach the last layer, ascending."""
        if not self.kept:
            return torch.arange(self.available)
        return self.kept[max(self.kept)]


@dataclass
class Trace:
    """What a session did in its latest prefill: `samples` a row each, `seconds` by phase,
    `positions` [.., B, n] per stage.

    `seconds["select"]` is wall time in signals and `prune`, and in nothing of the engine's own; the
    device is synchronised around it only where timed. The part of it that lay inside this call's
    vision encoder is `seconds["observe"]`.
    """

    timed: bool = False
    count_flops: bool = False
    samples: list[SampleTrace] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    positions: list[Tensor] = field(default_factory=list)

    def reset(self, samples: list[SampleTrace]) -> None:
        """Start the record of a new prefill."""
        self.samples, self.positions = samples, []
        for sample in samples:
            sample.selector_flops = 0 if self.count_flops else None
        self.seconds = {"select": 0.0, "observe": 0.0}

    @contextmanager
    def selecting(self, device: torch.device, rows: list[int]) -> Iterator[None]:
        """Charge the block to selection; its FLOPs are split evenly over the samples `rows`."""
        self._settle(device)
        start = perf_counter()
        with counter() if self.count_flops else nullcontext() as flops:
            yield
        self._settle(device)
        self.seconds["select"] += perf_counter() - start
        if flops is not None:
            for row in rows:
                self.samples[row].selector_flops = (
                    self.samples[row].selector_flops or 0
                ) + flops.get_total_flops() // len(rows)

    def charge(self, seconds: float, flops: int) -> None:
        """Count work for the method that was done before this prefill, split evenly over its
        samples.
        """
        self.seconds["select"] += seconds
        for sample in self.samples:
            if sample.selector_flops is not None:
                sample.selector_flops += flops // len(self.samples)

    def _settle(self, device: torch.device) -> None:
        if self.timed and device.type == "cuda":
            torch.cuda.synchronize(device)
