"""The backend that is stock transformers in this process, pruned through hooks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from time import perf_counter
from typing import Any, Self

import torch
from torch import nn

from prunebench import models
from prunebench.benchmarks import Benchmark, Request
from prunebench.budget import Budget
from prunebench.engine.clip import load_clip
from prunebench.engine.encode import encode
from prunebench.engine.ready import Ready, make_ready
from prunebench.engine.session import prune
from prunebench.engine.trace import SampleTrace
from prunebench.identity import identity
from prunebench.measure.flops import Flops, PrefillFlops
from prunebench.measure.latency import TimedRun, measure_pairs, runs
from prunebench.measure.pairs import PairRow, PairSettings
from prunebench.models import Loaded
from prunebench.models.harness import Manner
from prunebench.models.manners import manner_of
from prunebench.models.placement import devices_of
from prunebench.pruner import Pruner, Unsupported
from prunebench.run import samples as group
from prunebench.run.backend import Answer, Conditions, Encoded, ModelSetup
from prunebench.run.ceiling import Work, work_of
from prunebench.run.provenance import resolution
from prunebench.run.samples import Samples
from prunebench.sites import Part, Site
from prunebench.tokens import Signal

KEPT_OPTIONS = ("max_new_tokens", "min_new_tokens", "num_beams", "repetition_penalty")
"""Generation settings of a task that `generate` takes under the same name."""

WRAPPER_OPTIONS = ("max_new_tokens", "num_beams")
"""Those that lmms-eval's wrappers hand on, beside what only means something where answers are
sampled.
"""

SAMPLING_OPTIONS = ("temperature", "top_p", "top_k")
"""Those that only mean something where answers are sampled."""

MINIATURE = 100_000_000
"""Parameters below which a model is one."""

BATCH = 8
"""Samples that run together on a GPU, or in a miniature, of whose time most goes into calls of
torch and not into numbers. A CPU gains nothing from padding a larger model's prompts.
"""


@dataclass(frozen=True)
class TransformersBackend:
    """A model of transformers with its processor and family."""

    setup: ModelSetup
    loaded: Loaded

    @classmethod
    def check(cls, setup: ModelSetup) -> None:
        """That there is such a model, of a family that is known; its weights are not fetched."""
        models.look_up(
            setup.model, revision=setup.revision, trust_remote_code=setup.trust_remote_code
        )

    @classmethod
    def load(cls, setup: ModelSetup) -> Self:
        """Load the model, and set the threads that it runs with."""
        try:
            loaded = models.load(
                setup.model,
                device=setup.device,
                dtype=setup.dtype,
                attention=setup.attention,
                weights="random" if setup.weights == "random" else "pretrained",
                seed=setup.seed,
                revision=setup.revision,
                trust_remote_code=setup.trust_remote_code,
                quantization=setup.quantization,
                device_map=setup.device_map,
            )
        except ImportError as error:  # an attention kernel, a processor's library
            raise models.LoadError(
                f"model {setup.model} needs a package that is missing: {error}"
            ) from error
        loaded = replace(loaded, manner=manner_of(loaded, setup.wish))
        _set_threads(setup, loaded.model)
        return cls(setup, loaded)

    @property
    def revision(self) -> str:
        """The hub's commit of the model, or a digest of its weights."""
        return self.loaded.revision

    @property
    def module(self) -> nn.Module:
        """The model."""
        module: nn.Module = self.loaded.model
        return module

    @cached_property
    def layers(self) -> int:
        """Layers of the language model."""
        return len(self.loaded.family.layers(self.loaded.model))

    @cached_property
    def _prefills(self) -> PrefillFlops:
        """What prefills of the model take."""
        return PrefillFlops(self.loaded.model, self.loaded.family)

    @property
    def batch(self) -> int:
        """Samples that run together where nobody says how many."""
        is_small = _is_miniature(self.loaded.model)
        return BATCH if is_small or self.setup.device != "cpu" else 1

    @property
    def manner(self) -> Manner:
        """How the model is asked."""
        return self.loaded.manner

    def facts(self) -> dict[str, Any]:
        """What provenance says of the model."""
        return {
            "model_id": self.loaded.id,
            "model_revision": self.loaded.revision,
            "trust_remote_code": self.loaded.trust_remote_code,
            "resolution": resolution(self.loaded.processor),
            "manner": self.manner.facts(),
        }

    def lacks(self, need: Signal | Site) -> str | None:
        """Why a signal cannot be read in the model, or nothing pruned at a site."""
        family = self.loaded.family
        if isinstance(need, Signal):
            return family.lacks(need)
        if need.part is Part.PIXELS and not family.resizes:
            return f"{family.name} scales every image to its own resolution"
        return None

    def ready(self, pruner: Pruner) -> Ready:
        """Bind a method to the model; raises Unsupported where the model cannot serve it."""
        return make_ready(self.loaded.family, self.loaded.model, pruner)

    def digests(self, method: Ready) -> list[str]:
        """Hashes of the method, with what it holds and its weights, and of the CLIP it asks."""
        digests = [identity(method.pruner)]
        if method.clip is not None:
            model = self.loaded.model
            clip = load_clip(method.clip, self.loaded.device, model.dtype)
            digests.append(clip.digest)
            if method.beside:
                digests.append(clip.digest_of_images)
        return digests

    def read(self, benchmark: Benchmark, requests: Sequence[Request]) -> Samples:
        """Make samples ready; raises MediaError where an image cannot be read."""
        return group.read(self.loaded, benchmark, requests)

    def resized(self, samples: Samples, pruner: Pruner, budget: Budget | None) -> Samples:
        """The samples with smaller images; raises Unsupported or BudgetError."""
        return group.resized(self.loaded, samples, pruner, budget)

    def encode(self, samples: Samples, methods: Sequence[Ready]) -> Encoded:
        """Run the vision tower once, and read there what any of the methods wants to see; those
        that prune inside it run it themselves.
        """
        readers = [method for method in methods if not method.inside_encoder()]
        return Encoded(samples, encode(self.loaded.model, samples.inputs, readers))

    def session_arguments(
        self, samples: Samples, method: Ready, conditions: Conditions
    ) -> dict[str, Any]:
        """What `prune` is given of a method and the samples, by name; whether work is counted or
        timed, its caller says.
        """
        return {
            "pruner": method,
            "budget": conditions.budget,
            "positions": conditions.positions,
            "seeds": conditions.seeds,
            **samples.caller_gives(self.loaded, method.needs),
        }

    def answer(self, encoded: Encoded, method: Ready, conditions: Conditions) -> Answer:
        """Generate an answer to every sample, with the generation settings of the first.

        Samples that go together have the same settings, so it speaks for all.
        """
        samples, loaded = encoded.samples, self.loaded
        start = perf_counter()
        torch.manual_seed(conditions.seeds[0])  # for tasks that sample
        arguments = self.session_arguments(samples, method, conditions)
        session = prune(loaded.model, count_flops=conditions.count_flops, **arguments)
        options = options_of(samples.requests[0], loaded)
        with session as trace, torch.inference_mode():
            output = loaded.model.generate(**encoded.inputs, **options)
        # [B, prompt + new]: generate repeats the prompts; padded on the left, they end in one place
        answers = output.sequences[:, encoded.inputs["input_ids"].shape[1] :]
        texts = loaded.processor.batch_decode(
            answers, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        beams = len(trace.samples) // len(texts)  # rows of one prompt, all pruned alike
        # a wrapper of lmms-eval gives the whole answer on, also where a task says what ends it
        if not self.manner.is_wrapper:
            pairs = zip(texts, samples.requests, strict=True)
            texts = [cut(text, request.until) for text, request in pairs]
        return Answer(list(texts), trace.samples[::beams], perf_counter() - start)

    def flops(self, samples: Samples, row: int, trace: SampleTrace) -> Flops:
        """What the prefill of one of the samples took."""
        inputs = partial(samples.single, self.loaded, row)
        return self._prefills.of(trace, inputs, samples.shapes(row))

    def work(self, samples: Samples, traces: Sequence[SampleTrace], new_tokens: int) -> Work:
        """What answers of that length ask of the device, whose samples left these traces."""
        costs = [self.flops(samples, number, trace) for number, trace in enumerate(traces)]
        return work_of(self.loaded.model, self.loaded.family, costs, traces, new_tokens)

    def _check_timed(self) -> None:
        """Raise Unsupported for a model whose time and memory no single clock sees."""
        places = devices_of(self.loaded.model)
        if len(places) > 1:
            raise Unsupported(
                f"time and memory of a model on {', '.join(places)} (device_map) are not measured; "
                "leave out device_map, or ask for quality alone"
            )

    def time(
        self, samples: Samples, method: Ready, conditions: Conditions, settings: PairSettings
    ) -> list[PairRow]:
        """Measure the method and the unpruned model in pairs, encodings included."""
        self._check_timed()
        return measure_pairs(
            self.loaded.model,
            self.loaded.family,
            samples.inputs,
            settings=settings,
            **self.session_arguments(samples, method, conditions),
        )

    def runs(
        self,
        samples: Samples,
        new_tokens: int,
        method: Ready | None = None,
        conditions: Conditions | None = None,
    ) -> Callable[[], TimedRun]:
        """What makes timed runs of a method, or of the unpruned model where there is none."""
        self._check_timed()
        arguments = {}
        if method is not None and conditions is not None:
            arguments = self.session_arguments(samples, method, conditions)
        loaded = self.loaded
        return runs(loaded.model, loaded.family, samples.inputs, new_tokens, **arguments)

    def time_smaller(self, small: Samples, full: Samples, settings: PairSettings) -> list[PairRow]:
        """The same for smaller images against the full ones, without any method."""
        self._check_timed()
        return measure_pairs(
            self.loaded.model,
            self.loaded.family,
            small.inputs,
            None,
            None,
            settings,
            baseline_inputs=full.inputs,
        )


def options_of(request: Request, loaded: Loaded) -> dict[str, Any]:
    """The task's generation settings in transformers' words; temperature 0 is greedy."""
    manner = loaded.manner
    generation = {"max_new_tokens": manner.max_new_tokens, **request.generation}
    temperature = generation.get("temperature")
    samples = (temperature or 0) > 0
    # a wrapper goes by the temperature alone; a task may ask for sampling at temperature 0, which
    # transformers refuses
    if not manner.is_wrapper:
        samples = bool(generation.get("do_sample", samples)) and temperature != 0
    kept = WRAPPER_OPTIONS if manner.is_wrapper else KEPT_OPTIONS
    options = {name: generation[name] for name in kept if name in generation}
    for name in SAMPLING_OPTIONS:
        # None, for a model's own configuration may set it
        options[name] = generation.get(name) if samples else None
    tokenizer = loaded.processor.tokenizer
    padding = tokenizer.pad_token_id
    if manner.is_wrapper:
        # the model's own configuration may name further ends, which wrappers do not heed
        options["eos_token_id"] = tokenizer.eos_token_id
    return {
        **options,
        "do_sample": samples,
        "pad_token_id": tokenizer.eos_token_id if padding is None else padding,
        "use_cache": True,
        "return_dict_in_generate": True,
    }


def cut(text: str, until: Sequence[str]) -> str:
    """An answer up to the first text that ends it."""
    for stop in until:
        # partition refuses an empty text
        if stop:
            text = text.partition(stop)[0]
    return text.strip()


@cache
def _usual_threads() -> int:
    """torch's threads as they stood before the first model was loaded."""
    return torch.get_num_threads()


def _set_threads(setup: ModelSetup, model: Any) -> None:
    """A miniature gains nothing from a second thread, and on a busy machine threads that wait for
    each other cost 25x.
    """
    usual = _usual_threads()
    threads = setup.threads
    if threads is None:
        # said for every model: one before may have been a miniature
        is_small = setup.device == "cpu" and _is_miniature(model)
        threads = 1 if is_small else usual
    torch.set_num_threads(threads)


def _is_miniature(model: Any) -> bool:
    return bool(model.num_parameters() < MINIATURE)
