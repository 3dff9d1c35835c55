"""Quality: the answers of one cell to one group of samples, with what they cost in tokens, FLOPs
and cache.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch

from prunebench.benchmarks import Request
from prunebench.engine.checks import planned
from prunebench.engine.encode import encode
from prunebench.engine.ready import Ready
from prunebench.engine.session import prune
from prunebench.measure.evidence import evidence_mask, recall
from prunebench.measure.flops import sample_flops
from prunebench.run.cell import Cell
from prunebench.run.samples import Samples, resized, seed_of
from prunebench.run.store import Row
from prunebench.sites import Part
from prunebench.study.columns import FLOPS_PARTS
from prunebench.study.record import SampleStatus
from prunebench.tokens import Layout

if TYPE_CHECKING:
    from prunebench.engine.trace import SampleTrace
    from prunebench.models import Loaded

MAX_NEW_TOKENS = 128
"""Where the task does not say; lmms-eval's own model classes take the same."""


@dataclass(frozen=True)
class Encoded:
    """A prompt and its encoding, shared by every method and budget that sees the image at full
    size.
    """

    prompt: Samples
    inputs: Mapping[str, Any]


def encoded(loaded: Loaded, prompt: Samples, methods: Sequence[Ready]) -> Encoded:
    """Run the vision tower once, and read there what any of the methods wants to see."""
    return Encoded(prompt, encode(loaded.model, prompt.inputs, methods))


def on_pixels(cell: Cell) -> bool:
    """Whether the cell's method works before the processor."""
    return cell.variant.pruner.site().part is Part.PIXELS


def feasible(loaded: Loaded, cell: Cell, method: Ready, prompt: Samples) -> None:
    """Plan for every sample without a call of the model; raises BudgetError or Unsupported where
    one cannot be served.
    """
    layers = len(loaded.family.layers(loaded.model))
    for layout in prompt.layouts:
        planned(method, cell.budget, None, len(layout), layers)


def answer(loaded: Loaded, cell: Cell, method: Ready, plain: Ready, shared: Encoded) -> list[Row]:
    """One row a sample, without its score; `plain` is the method that prunes nothing, for those
    that work on pixels.
    """
    prompt, budget, full = shared.prompt, cell.budget, shared.prompt.layouts
    seeds = [seed_of(request, cell.seed) for request in prompt.requests]
    start = perf_counter()
    inputs = shared.inputs
    if on_pixels(cell):
        prompt = resized(loaded, prompt, method.pruner, budget)
        inputs, method, budget = encode(loaded.model, prompt.inputs), plain, None
    else:
        feasible(loaded, cell, method, prompt)
    torch.manual_seed(seeds[0])  # for tasks that sample
    session = prune(
        loaded.model,
        method,
        budget,
        positions=cell.variant.positions,
        seeds=seeds,
        **prompt.told(loaded, method.pruner),
        count_flops=True,
    )
    with session as trace, torch.inference_mode():
        made = loaded.model.generate(**inputs, **options_of(prompt.requests[0], loaded))
    new = made.sequences[:, inputs["input_ids"].shape[1] :]
    texts = loaded.processor.batch_decode(
        new, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    seconds = (perf_counter() - start) / len(texts)
    beams = len(trace.samples) // len(texts)  # rows of one prompt, all pruned alike
    rows = []
    for number, (request, text, sample) in enumerate(
        zip(prompt.requests, texts, trace.samples[::beams], strict=True)
    ):
        rows.append(
            {
                **_identity(request),
                "status": "ok",
                "prediction": cut(text, request.until),
                "error": None,
                **_tokens(sample, len(full[number])),
                **(
                    {}
                    if on_pixels(cell)
                    else _evidence(request, sample, full[number], prompt.sizes[number])
                ),
                **_flops(loaded, prompt, number, sample),
                "kv_bytes": sample.kv_bytes,
                "kv_bytes_padded": sample.kv_bytes_padded,
                "seconds": seconds,
            }
        )
    return rows


def unanswered(request: Request, status: SampleStatus, error: str) -> Row:
    """The row of a sample that has no answer, and why."""
    return {**_identity(request), "status": status, "prediction": None, "error": error}


def _identity(request: Request) -> Row:
    return {
        "sample_id": request.sample_id,
        "doc_id": request.doc_id,
        "reference": request.reference,
        "question_type": request.question_type,
        "complexity": request.complexity,
    }


def options_of(request: Request, loaded: Loaded) -> dict[str, Any]:
    """The task's generation settings in transformers' words; temperature 0 is greedy."""
    given = {"max_new_tokens": MAX_NEW_TOKENS, **request.generation}
    sampled = (
        bool(given.get("do_sample", (given.get("temperature") or 0) > 0))
        and given.get("temperature") != 0
    )
    options = {
        key: value
        for key, value in given.items()
        if key in ("max_new_tokens", "min_new_tokens", "num_beams", "repetition_penalty")
    }
    for key in ("temperature", "top_p", "top_k"):
        options[key] = given.get(key) if sampled else None
    tokenizer = loaded.processor.tokenizer
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return {
        **options,
        "do_sample": sampled,
        "pad_token_id": pad,
        "use_cache": True,
        "return_dict_in_generate": True,
    }


def cut(text: str, until: Sequence[str]) -> str:
    """An answer up to the first text that ends it."""
    for stop in until:
        if stop:
            text = text.partition(stop)[0]
    return text.strip()


def _tokens(sample: SampleTrace, available: int) -> Row:
    return {
        "available": available,
        "stages": [len(sample.kept[site]) for site in sorted(sample.kept)],
        "tokens_input": sample.spent("input"),
        "tokens_mean": sample.spent("mean"),
        "tokens_kv": sample.spent("kv"),
    }


def _evidence(
    request: Request, sample: SampleTrace, layout: Layout, sizes: Sequence[tuple[int, int]]
) -> Row:
    """Where the question has an evidence box and one image. A smaller image keeps no token, so it
    has no recall.

    Recall is averaged over the LLM's layers, as a mean budget is: at one budget a method that keeps
    all for two layers and few from there on stands beside one that keeps some throughout.
    """
    if request.evidence_box is None or len(sizes) != 1:
        return {}
    try:
        mask = evidence_mask(layout, request.evidence_box, sizes[0])
    except (
        ValueError
    ):  # a box that is not in the image: the answer counts, its evidence is not known
        return {}
    layers = range(len(sample.entering))
    mean = sum(recall(sample.alive(layer), mask) for layer in layers) / len(layers)
    return {"evidence_recall": mean, "evidence_tokens": int(mask.sum())}


def _flops(loaded: Loaded, prompt: Samples, number: int, sample: SampleTrace) -> Row:
    found = sample_flops(loaded.model, loaded.family, prompt.single(loaded, number), sample)
    return {f"flops_{part}": int(getattr(found, part)) for part in FLOPS_PARTS}
