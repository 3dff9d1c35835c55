"""Backend: what runs a model. It is loaded, makes samples ready, answers them, times them, and says
what it cannot serve.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol, Self

import torch
from torch import nn

from prunebench.benchmarks import Benchmark, Request
from prunebench.budget import Budget
from prunebench.engine.ready import Ready
from prunebench.engine.trace import SampleTrace
from prunebench.measure.flops import Flops
from prunebench.measure.pairs import PairRow, PairSettings
from prunebench.models.harness import Manner, Wish
from prunebench.pruner import Positions, Pruner
from prunebench.run.ceiling import Work
from prunebench.run.keys import GridError
from prunebench.run.question import Grid
from prunebench.run.samples import Samples
from prunebench.sites import Site
from prunebench.tokens import Signal


@dataclass(frozen=True)
class ModelSetup:
    """What a backend is loaded from, as plain data: two that are equal answer alike."""

    model: str
    device: str = "cpu"
    dtype: str = "float32"
    attention: str = "sdpa"
    weights: str = "pretrained"
    seed: int = 0
    revision: str | None = None
    trust_remote_code: bool = False
    threads: int | None = None
    quantization: str = "none"
    device_map: str = "none"
    harness: str = "lmms-eval"
    min_pixels: int | None = None
    max_pixels: int | None = None
    fps: float | None = None
    max_frames: int | None = None
    system_prompt: str | None = None

    @property
    def wish(self) -> Wish:
        """How it is to be asked."""
        values = {one.name: getattr(self, one.name) for one in fields(Wish)}
        return Wish(**values)


@dataclass(frozen=True)
class Conditions:
    """Under what a method runs: its budget, what becomes of position ids, and a seed a sample."""

    budget: Budget | None
    positions: Positions | None = None
    seeds: Sequence[int] = ()
    count_flops: bool = False
    """Whether the method's own work is counted, which takes time of its own."""


@dataclass(frozen=True)
class Encoded:
    """Samples and their encoding, shared by every method and budget that sees the image at full
    size.
    """

    samples: Samples
    inputs: Mapping[str, Any]


@dataclass(frozen=True)
class Answer:
    """What a model said to samples under a method, a text and a trace for each; `seconds` is what
    the whole took, without the encoding that was shared.
    """

    texts: list[str]
    traces: list[SampleTrace]
    seconds: float


class Backend(Protocol):
    """A loaded model. What it raises becomes the status of the sample or the cell at work."""

    @property
    def setup(self) -> ModelSetup:
        """What it was loaded from."""

    @property
    def revision(self) -> str:
        """The hub's commit of the model, or a digest of its weights."""

    @classmethod
    def check(cls, setup: ModelSetup) -> None:
        """That there is such a model and that it can be served, without its weights; raises
        LoadError or Unsupported in one line.
        """

    @classmethod
    def load(cls, setup: ModelSetup) -> Self:
        """Load the model; raises LoadError or Unsupported in one line."""

    @property
    def module(self) -> nn.Module | None:
        """The model as code of others could reach it in this process, to see that it leaves it as
        it was.
        """

    @property
    def layers(self) -> int:
        """Layers of the language model."""

    @property
    def batch(self) -> int:
        """Samples that it runs together where a grid does not say how many."""

    @property
    def manner(self) -> Manner:
        """How the model is asked."""

    def facts(self) -> dict[str, Any]:
        """What provenance says of the model."""

    def lacks(self, need: Signal | Site) -> str | None:
        """Why a signal cannot be read here, or nothing pruned at a site; None where it can."""

    def ready(self, pruner: Pruner) -> Ready:
        """Bind a method to the model; raises Unsupported where the model cannot serve it."""

    def digests(self, method: Ready) -> list[str]:
        """Hashes of all that decides the method's answers."""

    def read(self, benchmark: Benchmark, requests: Sequence[Request]) -> Samples:
        """Make samples ready; raises MediaError where an image cannot be read."""

    def resized(self, samples: Samples, pruner: Pruner, budget: Budget | None) -> Samples:
        """The samples with smaller images; raises Unsupported or BudgetError."""

    def encode(self, samples: Samples, methods: Sequence[Ready]) -> Encoded:
        """Run the vision tower once, and read there what any of the methods wants to see."""

    def answer(self, encoded: Encoded, method: Ready, conditions: Conditions) -> Answer:
        """Generate an answer to every sample, with the generation settings of the first."""

    def flops(self, samples: Samples, row: int, trace: SampleTrace) -> Flops:
        """What the prefill of one of the samples took."""

    def work(self, samples: Samples, traces: Sequence[SampleTrace], new_tokens: int) -> Work:
        """What answers of that length ask of the device, whose samples left these traces."""

    def time(
        self, samples: Samples, method: Ready, conditions: Conditions, settings: PairSettings
    ) -> list[PairRow]:
        """Measure the method and the unpruned model in pairs, encodings included."""

    def time_smaller(self, small: Samples, full: Samples, settings: PairSettings) -> list[PairRow]:
        """The same for smaller images against the full ones, without any method."""


def batch_of(grid: Grid, backend: Backend) -> int:
    """Samples of a grid that run together on a backend."""
    return backend.batch if grid.batch is None else grid.batch


def setup_of(grid: Grid, model: str, has_gpu: bool | None = None) -> ModelSetup:
    """What one of a grid's models is loaded from where it runs, by default on this machine; raises
    GridError for a GPU where there is none.
    """
    if has_gpu is None:
        has_gpu = torch.cuda.is_available()
    device = grid.device
    if device == "auto":
        device = "cuda" if has_gpu else "cpu"
    if device == "cuda" and not has_gpu:
        raise GridError("device is 'cuda', but torch sees no GPU here; use device=cpu")
    dtype = grid.dtype
    if dtype == "auto":
        dtype = "float32" if device == "cpu" else "bfloat16"
    return ModelSetup(
        model,
        device,
        dtype,
        grid.attention,
        grid.weights,
        grid.seed,
        grid.revision,
        grid.trust_remote_code,
        grid.threads,
        quantization=grid.quantization,
        device_map=grid.device_map,
        **asdict(_wish_of(grid)),
    )


def _wish_of(grid: Grid) -> Wish:
    """How a grid wants its models to be asked; raises GridError where no image could be."""
    low, high = grid.min_pixels, grid.max_pixels
    if low is not None and high is not None and low > high:
        raise GridError(f"min_pixels is {low} and max_pixels is {high}; min_pixels is at most that")
    return Wish(grid.harness, low, high, grid.fps, grid.max_frames, grid.system_prompt)
