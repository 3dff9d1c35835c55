"""Examples: what a method is shown of a batch of lessons in a frozen model, with gradients where
its weights had a part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from prunebench.budget import Budget, Stage
from prunebench.engine.attention import probed
from prunebench.engine.behind import CachedPrompt, aside
from prunebench.engine.ready import make_ready
from prunebench.engine.session import prune
from prunebench.engine.stream import Stream
from prunebench.models import Loaded
from prunebench.pruner import Pruner
from prunebench.reads import Reads
from prunebench.signals import PROBE
from prunebench.sites import INPUT, Site
from prunebench.tokens import Keep, Signal, VisualTokens
from prunebench.trained import Example, Trained
from prunebench.training.batch import (
    IGNORED,
    Batch,
    Inputs,
    PromptRecord,
    layouts_of,
    pixels_of,
    target,
)
from prunebench.training.lesson import Lesson


@dataclass(frozen=True)
class Look(Pruner):
    """Sees what another method would, without its probe, and keeps everything.

    What it saw of the samples is in `views`, one a sample.
    """

    other: Pruner
    views: list[VisualTokens] = field(default_factory=list)
    dynamic: ClassVar[bool] = True

    @property
    def reads(self) -> Reads:
        """What the other reads, but for what only its probe sees."""
        reads = self.other.reads.without(PROBE)
        return replace(reads, lora=None)  # training has put the adapter on

    @property
    def stand_ins(self) -> Mapping[Signal, Signal | None]:
        """What the other reads where a model lacks something."""
        return self.other.stand_ins

    def site(self) -> Site:
        """Where the other prunes; before all layers where its own probe sees the rest."""
        return INPUT if self.other.needs & PROBE else self.other.site()

    def plan(self, budget: Budget | None, available: int, layers: int) -> tuple[Stage, ...]:
        """One stage that keeps everything."""
        return (Stage(self.site(), available),)

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        self.views.append(tokens)
        return Keep(torch.arange(len(tokens)))


@dataclass(frozen=True)
class Probing:
    """What a method's probe gives of one lesson: its view of the tokens, and the loss on the answer
    that stands behind it; nothing of a method without a probe.
    """

    signals: dict[Signal, Tensor] = field(default_factory=dict)
    answer_loss: Tensor | None = None


def examples(loaded: Loaded, pruner: Trained, lessons: Sequence[Lesson]) -> list[Example]:
    """One example a lesson.

    `pruner` is prepared; gradients flow into its module where that is in training.
    """
    batch = Batch(loaded, lessons)
    look = Look(pruner)
    record = PromptRecord(loaded)
    inputs = _session_inputs(loaded, lessons)
    # the model is frozen: gradients begin behind this pass, in the method's own module; its logits
    # are not read, and those of one position are the fewest that can be asked for
    with torch.no_grad(), record.recording(), prune(loaded.model, look, **inputs):
        out = loaded.model(**batch.inputs, use_cache=True, logits_to_keep=1)
    probings = [Probing()] * len(lessons)
    reads = pruner.reads
    token = None
    if reads.signals & PROBE and reads.probe is not None:
        token = reads.probe()
    if token is not None:
        depth = len(loaded.family.layers(loaded.model))
        # not `site()`: a layer that goes by the depth is known to the plan alone
        site = pruner.plan(None, 1, depth)[0].site
        probings = _probe(loaded, token, site, batch, record, out.past_key_values)
    layouts = layouts_of(loaded, batch.inputs, lessons)
    result = []
    for tokens, layout, lesson, probing in zip(look.views, layouts, lessons, probings, strict=True):
        signals = {**tokens.signals, **probing.signals}
        view = replace(tokens, layout=layout, signals=signals)
        result.append(Example(view, target(layout, lesson), probing.answer_loss))
    return result


def clip_of(loaded: Loaded, pruner: Trained) -> str | None:
    """The CLIP that a prepared method asks; raises Unsupported where the model cannot serve the
    method at all.
    """
    return make_ready(loaded.family, loaded.model, Look(pruner)).clip


def _session_inputs(loaded: Loaded, lessons: Sequence[Lesson]) -> Inputs:
    """What a session is given of the lessons besides the model's inputs."""
    masks = None
    if all(lesson.masks is not None for lesson in lessons):
        masks = [[lesson.masks] for lesson in lessons]
    return {
        "questions": [lesson.question for lesson in lessons],
        "processor": loaded.processor,
        "pictures": [[pixels_of(lesson)] for lesson in lessons],
        "masks": masks,
    }


def _probe(
    loaded: Loaded, token: Tensor, site: Site, batch: Batch, record: PromptRecord, cache: Any
) -> list[Probing]:
    """The probe `token` [L, D] behind each prompt, and behind it the answer, which sees it.

    The probe's own position predicts the answer's first token, each of these the next.
    """
    family, model = loaded.family, loaded.model
    decoder: Any = family.decoder(model)
    depth = len(family.layers(model))
    answers = batch.answers
    rows, width = batch.visual.shape
    # the last token of an answer predicts nothing; what fills up is ignored, so any id will do
    answer_embeds = model.get_input_embeddings()(answers[:, :-1].clamp(min=0))
    # layer 0 gets its row as the input; `aside` adds the others' on the way
    probe_embeds = token[0].to(answer_embeds).expand(rows, 1, -1)
    embeds = torch.cat([probe_embeds, answer_embeds], dim=1)
    whole = Stream.of_prompt(rows, width, batch.inputs.get("attention_mask"))
    every_row = torch.arange(rows, device=embeds.device)
    with probed(decoder.config):
        hidden, heads = aside(
            family,
            model,
            embeds,
            # `Look` dropped nothing: every layer holds the whole prompt
            CachedPrompt([whole] * depth, cache, record.kwargs),
            added=token,
            ids=record.ids_behind(every_row, embeds.shape[1]),
            # tokens leave before the layer of a site: what decides is read in the one above
            layer=site.layer - 1,
        )
    assert heads is not None
    logits = model.get_output_embeddings()(decoder.norm(hidden)).float()
    valid = whole.valid(embeds.device)
    probings = []
    for row in range(rows):
        # to the probe the answer does not exist yet, at inference neither
        # [H, width + 1]: the prompt, and the probe itself
        scores = heads.logits(row, slice(0, 1))[:, 0, : width + 1]
        visible = torch.cat([valid[row], valid.new_ones(1)])
        attention = scores.masked_fill(~visible, float("-inf")).log_softmax(-1)
        columns = batch.visual[row].nonzero()[:, 0]
        columns = columns.to(embeds.device)
        signals = {
            Signal.PROBE_LOGITS: scores[:, columns],
            Signal.PROBE_LOG_ATTENTION: attention[:, columns],
        }
        # every answer by itself, for a method weighs its own losses
        loss = cross_entropy(logits[row], answers[row], ignore_index=IGNORED)
        probings.append(Probing(signals, loss))
    return probings
