"""Trace: what a session did, per sample."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from prunebench import display
from prunebench.budget import Kind, Stage, spent
from prunebench.engine.counter import Tally, counter
from prunebench.sites import Part, Site
from prunebench.tokens import Layout

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image


@dataclass(repr=False)
class SampleTrace:
    """One sample's prefill.

    `kept` maps a site to the original visual indices [K] alive behind it, ascending; `entering` and
    `cached` are [layers] visual tokens entering a layer and left in its cache; `text` counts the
    text tokens (no padding). `selector_flops` is None unless the session counts FLOPs. Where the
    method steers decoding, `attended` are, a step, the visual entries that later layers attend to,
    and `step_flops` what choosing them took in all steps. `notes` say
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
    step_flops: int | None = None
    attended: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    kv_bytes: int = 0
    kv_bytes_padded: int = 0

    def spent(self, kind: Kind = "mean") -> float:
        """Visual tokens spent, counted the way a budget of that kind counts them."""
        return spent(kind, self.entering, self.cached)

    def alive(self, layer: int) -> Tensor:
        """[K] original visual indices that enter LLM layer `layer`, ascending."""
        return self.behind(self.thinned_at(layer))

    def counts(self, layers: int) -> list[int]:
        """[layers] how many visual tokens enter each LLM layer."""
        counts, first, count = [], 0, self.available
        for site, kept in sorted(self.kept.items()):
            place = site.layer if site.part is Part.LLM else 0
            counts += [count] * (place - first)
            first, count = place, len(kept)
        return [*counts, *[count] * (layers - first)]

    def survivors(self) -> Tensor:
        """[K] original visual indices that reach the last layer, ascending."""
        return self.behind(max(self.kept, default=None))

    def thinned_at(self, layer: int) -> Site | None:
        """The last site in front of LLM layer `layer`, None where there is none."""
        passed = [site for site in self.kept if site.part is not Part.LLM or site.layer <= layer]
        return max(passed, default=None)

    def behind(self, site: Site | None) -> Tensor:
        """[K] original visual indices alive behind a site, ascending; None for the whole image."""
        return torch.arange(self.available) if site is None else self.kept[site]

    def rows(self, sample: int = 0) -> list[display.StageRow]:
        """A row a stage, for tables; `sample` is the number that the rows bear."""
        stages = sorted(self.kept.items())
        sizes = [(str(site), len(tokens)) for site, tokens in stages]
        if not sizes:
            sizes = [("", self.available)]
        entered = self.available
        rows = []
        for number, (site, kept) in enumerate(sizes):
            row = display.StageRow(
                sample=sample,
                stage=number,
                site=site,
                available=self.available,
                entered=entered,
                kept=kept,
                share=kept / self.available if self.available else 0.0,
                text=self.text,
                tokens_mean=self._spent("mean"),
                tokens_input=self._spent("input"),
                tokens_kv=self._spent("kv"),
                selector_flops=self.selector_flops,
                kv_bytes=self.kv_bytes,
                notes="; ".join(self.notes),
            )
            rows.append(row)
            entered = kept
        return rows

    def _spent(self, kind: Kind) -> float:
        """What was spent, NaN before the prefill has run."""
        return self.spent(kind) if self.entering else float("nan")

    def to_frame(self) -> pd.DataFrame:
        """A table with a row a stage; its columns are the fields of display.StageRow."""
        return display.frame(self.rows())

    def show(self, image: Image.Image | str | Path | None = None, number: int = 0) -> Image.Image:
        """The kept tokens, stage by stage, drawn over `image`; a notebook shows it inline.

        `number` says which of the prompt's images and frames `image` is, from 0. Without an image
        the bare grid is drawn. Raises ValueError where tokens cannot be placed in an image.
        """
        stages = {}
        for site, tokens in sorted(self.kept.items()):
            stages[f"from {site} on"] = display.mask(self.layout, tokens, number)
        if not stages:
            everything = torch.arange(self.available)
            stages["not pruned"] = display.mask(self.layout, everything, number)
        return display.drawing(stages, image, "")

    def __repr__(self) -> str:
        return f"SampleTrace({display.sample_line(self.rows())})"

    def _repr_html_(self) -> str:
        return display.html("SampleTrace", self.rows(), _pictures([self]))


@dataclass(repr=False)
class Trace:
    """What a session did in its latest prefill: `samples` a row each, `seconds` by phase,
    `positions` [.., B, n] per stage.

    `seconds["select"]` is wall time in signals and `prune`, and in nothing of the engine's own; the
    device is synchronised around it only where timed. The part of it that lay inside this call's
    vision encoder is `seconds["observe"]`. `seconds["steer"]` is what a method took that has its
    say in decoding, and part of the steps' own time. The `tally` holds FLOPs that need no counting.
    """

    timed: bool = False
    count_flops: bool = False
    samples: list[SampleTrace] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    positions: list[Tensor] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)

    def reset(self, samples: list[SampleTrace]) -> None:
        """Start the record of a new prefill."""
        self.samples, self.positions = samples, []
        for sample in samples:
            sample.selector_flops = 0 if self.count_flops else None
            sample.step_flops = 0 if self.count_flops else None
        self.seconds = {"select": 0.0, "observe": 0.0, "steer": 0.0}

    @contextmanager
    def selecting(
        self,
        device: torch.device,
        rows: list[int],
        work: Hashable | None = None,
        *,
        step: bool = False,
    ) -> Iterator[None]:
        """Charge the block to selection; its FLOPs are split evenly over the samples `rows`.

        `work` is all that they depend on, None where nobody knows: then they are always counted.
        `step` says that it is a step of decoding that is charged.
        """
        self._settle(device)
        flops = self.tally.known(work) if self.count_flops else 0
        start = perf_counter()
        with counter() if flops is None else nullcontext() as counting:
            yield
        self._settle(device)
        self.seconds["steer" if step else "select"] += perf_counter() - start
        if counting is not None:
            flops = counting.get_total_flops()
            self.tally.note(work, flops)
        for row in rows:
            sample = self.samples[row]
            if sample.selector_flops is None or sample.step_flops is None or flops is None:
                continue
            if step:
                sample.step_flops += flops // len(rows)
            else:
                sample.selector_flops += flops // len(rows)

    def charge(self, seconds: float, flops: int) -> None:
        """Count work for the method that was done before this prefill, split evenly over its
        samples.
        """
        self.seconds["select"] += seconds
        for sample in self.samples:
            if sample.selector_flops is not None:
                sample.selector_flops += flops // len(self.samples)

    def rows(self) -> list[display.StageRow]:
        """A row a stage of every sample, for tables."""
        rows = []
        for number, sample in enumerate(self.samples):
            rows += sample.rows(number)
        return rows

    def to_frame(self) -> pd.DataFrame:
        """A table with a row a stage of every sample; columns as in `SampleTrace.to_frame`."""
        return display.frame(self.rows())

    def show(
        self, image: Image.Image | str | Path | None = None, sample: int = 0, number: int = 0
    ) -> Image.Image:
        """What `SampleTrace.show` draws of that sample; raises ValueError where there is none."""
        if not 0 <= sample < len(self.samples):
            raise ValueError(
                f"there is no sample {sample}; the latest prefill had {len(self.samples)}, from 0"
            )
        return self.samples[sample].show(image, number)

    def __repr__(self) -> str:
        if not self.samples:
            return "Trace(nothing has run yet)"
        lines = [f"  {number}: {sample!r}" for number, sample in enumerate(self.samples)]
        return "\n".join([f"{self._title()}:", *lines])

    def _repr_html_(self) -> str:
        if not self.samples:
            return "<b>Trace</b>: nothing has run yet"
        return display.html(self._title(), self.rows(), _pictures(self.samples))

    def _title(self) -> str:
        plural = "" if len(self.samples) == 1 else "s"
        selecting = f"{1000 * self.seconds.get('select', 0.0):.1f} ms in the method"
        return f"Trace of {len(self.samples)} sample{plural}, {selecting}"

    def _settle(self, device: torch.device) -> None:
        if self.timed and device.type == "cuda":
            torch.cuda.synchronize(device)


def _pictures(samples: list[SampleTrace]) -> dict[int, bytes]:
    """Drawings of the first samples, as PNGs by number.

    What cannot be drawn is left out: a notebook displays its last value whether one wants a picture
    or not, and the table is there all the same. `show` says why.
    """
    pictures = {}
    for number, sample in enumerate(samples[: display.MOST_PICTURES]):
        try:
            pictures[number] = display.png(sample.show())
        except (ImportError, ValueError):
            continue
    return pictures
