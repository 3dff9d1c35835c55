"""Rollout: answers sampled on a pruned prompt, and how likely a model finds them there."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from prunebench.engine.behind import CachedPrompt, aside
from prunebench.engine.session import prune
from prunebench.engine.stream import Stream
from prunebench.engine.trace import Trace
from prunebench.learning.schedule import Tuning
from prunebench.models import Loaded
from prunebench.training.batch import Inputs, PromptRecord
from prunebench.training.evidence import Evidence


@torch.no_grad()
def sampled_answers(loaded: Loaded, inputs: Inputs, pruner: Evidence, tuning: Tuning) -> Tensor:
    """[rows, T] ids of sampled answers, `group` a lesson, the lessons one after the other.

    They are drawn from the model's own distribution, with nothing of it cut off, and padded on
    the right.
    """
    model, tokenizer = loaded.model.eval(), loaded.processor.tokenizer
    padding = tokenizer.pad_token_id
    if padding is None:
        padding = tokenizer.eos_token_id
    with prune(model, pruner, seeds=range(len(pruner.targets))):
        sequences: Tensor = model.generate(
            **inputs,
            do_sample=True,
            temperature=tuning.temperature,
            top_k=0,
            top_p=1.0,
            num_return_sequences=tuning.group,
            max_new_tokens=tuning.max_new_tokens,
            pad_token_id=padding,
        )
    return sequences[:, inputs["input_ids"].shape[1] :]


def log_probabilities(
    loaded: Loaded, inputs: Inputs, pruner: Evidence, answers: Tensor, group: int
) -> Tensor:
    """[rows, T] log probability of every token of the answers [rows, T], `group` a sample.

    Each answer stands behind its pruned prompt, as generation saw it: the prompt goes through the
    model once a sample, and the answers behind it through its cache. Gradients flow through both.
    """
    model, family = loaded.model, loaded.family
    record = PromptRecord(loaded)
    seeds = range(len(pruner.targets))
    with record.recording(), prune(model, pruner, seeds=seeds) as trace:
        out = model(**inputs, use_cache=True, logits_to_keep=1)
    live = _live_stream(loaded, inputs, trace)
    samples = torch.arange(len(live.source), device=answers.device)
    rows = samples.repeat_interleave(group)
    # the prompt's last position predicts the first token, the pruned pass itself computed it
    logits = out.logits[rows, -1:].float()
    embeds = model.get_input_embeddings()(answers[:, :-1])
    # answers of one token have nothing that would stand behind the prompt
    if embeds.shape[1]:
        depth = len(family.layers(model))
        source = tuple(live.source[row] for row in rows.tolist())
        hidden, _ = aside(
            family,
            model,
            embeds,
            CachedPrompt(
                # the pruner compacts, so that the caches of all layers hold the same
                streams=[Stream(source, live.width)] * depth,
                cache=_repeated(out.past_key_values, rows),
                kwargs=record.kwargs,
            ),
            # what `aside` adds to a probe; there is none here, the first token is like the others
            added=embeds.new_zeros(depth, embeds.shape[-1]),
            ids=record.ids_behind(rows, embeds.shape[1]),
        )
        decoder: Any = family.decoder(model)
        later = model.get_output_embeddings()(decoder.norm(hidden)).float()
        logits = torch.cat([logits, later], dim=1)
    everything = logits.log_softmax(-1)
    likely: Tensor = everything.gather(-1, answers[..., None])
    return likely[..., 0]


def lengths(answers: Tensor, end: int) -> Tensor:
    """[rows] tokens of the answers [rows, T] up to the first end mark, which counts."""
    is_end = (answers == end).int()
    ends_before = is_end.cumsum(1) - is_end
    return (ends_before == 0).sum(1)


def _live_stream(loaded: Loaded, inputs: Inputs, trace: Trace) -> Stream:
    """What of each prompt a pruned pass left alive behind its last stage: all text, and the
    survivors.
    """
    visual = loaded.family.visual(loaded.model, inputs["input_ids"])
    rows, width = visual.shape
    whole = Stream.of_prompt(rows, width, inputs.get("attention_mask"))
    source = []
    for row, sample in enumerate(trace.samples):
        alive = ~visual[row]
        places = visual[row].nonzero()[:, 0]
        # `alive` is true on padding, too, which `whole.source` does not name
        alive[places[sample.survivors()]] = True
        positions = whole.source[row]
        source.append(positions[alive[positions]])
    return whole.narrowed(source)


def _repeated(cache: Any, rows: Tensor) -> Any:
    """The cache with its samples repeated, gradients kept."""
    for part in cache.layers:
        part.keys = part.keys[rows]
        part.values = part.values[rows]
    return cache
