"""Examples: what a method is shown of a batch of lessons in a frozen model, with gradients where
its weights had a part.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from prunebench.budget import Budget, Stage
from prunebench.engine.attention import probed
from prunebench.engine.behind import aside
from prunebench.engine.ready import make_ready
from prunebench.engine.session import prune
from prunebench.engine.stream import Stream
from prunebench.models import Loaded
from prunebench.models.base import Originals
from prunebench.pruner import Pruner
from prunebench.reads import Reads
from prunebench.run import samples as prompts
from prunebench.select import pooled
from prunebench.signals import PROBE
from prunebench.sites import INPUT, Site
from prunebench.tokens import Keep, Layout, Signal, VisualTokens
from prunebench.trained import Example, Trained
from prunebench.training.data import Lesson

IGNORED = -100


@dataclass(frozen=True)
class _Look(Pruner):
    """Sees what another method would, without its probe, and keeps everything."""

    other: Pruner
    seen: list[VisualTokens] = field(default_factory=list)
    dynamic: ClassVar[bool] = True

    @property
    def reads(self) -> Reads:
        reads = self.other.reads.without(PROBE)
        return replace(reads, lora=None)  # training has put the adapter on

    def site(self) -> Site:
        return INPUT if self.other.needs & PROBE else self.other.site()

    def plan(self, budget: Budget | None, available: int, layers: int) -> tuple[Stage, ...]:
        return (Stage(self.site(), available),)

    def prune(self, tokens: VisualTokens, stage: Stage) -> Keep:
        self.seen.append(tokens)
        return Keep(torch.arange(len(tokens)))


def examples(loaded: Loaded, pruner: Trained, lessons: Sequence[Lesson]) -> list[Example]:
    """One a lesson. `pruner` is prepared; gradients flow into its module where that is in training."""
    batch = _Batch(loaded, lessons)
    look = _Look(pruner)
    told = {
        "questions": [lesson.question for lesson in lessons],
        "processor": loaded.processor,
        "pictures": [[_pixels(lesson)] for lesson in lessons],
        "masks": None
        if any(one.masks is None for one in lessons)
        else [[lesson.masks] for lesson in lessons],
    }
    frozen = Frozen(loaded)
    with torch.no_grad(), frozen.watching(), prune(loaded.model, look, **told):
        out = loaded.model(**batch.inputs, use_cache=True, logits_to_keep=1)
    reads = pruner.reads
    token = reads.probe() if reads.signals & PROBE and reads.probe is not None else None
    shown: list[tuple[dict[Signal, Tensor], Tensor | None]] = [({}, None)] * len(lessons)
    if token is not None:
        shown = _probe(loaded, pruner, token, batch, frozen, out.past_key_values)
    return [
        Example(
            replace(tokens, layout=layout, signals={**tokens.signals, **signals}),
            target(layout, lesson),
            answer,
        )
        for tokens, layout, lesson, (signals, answer) in zip(
            look.seen, layouts_of(loaded, batch.inputs, lessons), lessons, shown, strict=True
        )
    ]


def clip_of(loaded: Loaded, pruner: Trained) -> str | None:
    """The CLIP that a prepared method asks; raises Unsupported where the model cannot serve the
    method at all.
    """
    return make_ready(loaded.family, loaded.model, _Look(pruner)).clip


def target(layout: Layout, lesson: Lesson) -> Tensor:
    """[N] 1.0 where a token's cell touches an evidence box, else 0.0."""
    width, height = lesson.image.size
    inside = torch.zeros(1, height, width)
    for left, top, right, bottom in lesson.boxes:
        inside[:, int(max(0, top)) : -int(-bottom // 1), int(max(0, left)) : -int(-right // 1)] = 1
    return (pooled(layout, [inside]) > 0).float()


def inputs_of(loaded: Loaded, lessons: Sequence[Lesson]) -> dict[str, Any]:
    """The model's inputs: every lesson's image and question as the user's one message."""
    messages = [
        [
            {
                "role": "user",
                "content": [
                    {"type": "image", "url": one.image},
                    {"type": "text", "text": one.question},
                ],
            }
        ]
        for one in lessons
    ]
    return prompts.process(loaded, messages)


def layouts_of(loaded: Loaded, inputs: dict[str, Any], lessons: Sequence[Lesson]) -> list[Layout]:
    """Where every lesson's tokens lie in its image."""
    return loaded.family.layouts(
        loaded.model, inputs, Originals([[one.image.size] for one in lessons], loaded.processor)
    )


class _Batch:
    """The lessons as the model's inputs, with their answers' ids."""

    def __init__(self, loaded: Loaded, lessons: Sequence[Lesson]) -> None:
        self.inputs = inputs_of(loaded, lessons)
        tokenizer = loaded.processor.tokenizer
        ids = [
            [*tokenizer(one.answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
            for one in lessons
        ]
        longest = max(map(len, ids))
        self.answers = torch.tensor(
            [row + [IGNORED] * (longest - len(row)) for row in ids], device=loaded.model.device
        )
        self.visual = loaded.family.visual(loaded.model, self.inputs["input_ids"])


class Frozen:
    """Notes what the decoder's layers are given for a prompt."""

    def __init__(self, loaded: Loaded) -> None:
        self.parts, self.model = loaded.family, loaded.model
        self.kwargs: dict[str, Any] = {}
        self.ids: Any = None

    def watching(self) -> ExitStack:
        """A context in which the model is called once."""

        def layer(_module: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
            self.kwargs = dict(kwargs)

        def rotary(_module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
            self.ids = kwargs.get("position_ids", args[1] if len(args) > 1 else None)

        undo = ExitStack()
        first = self.parts.layers(self.model)[0]
        undo.callback(first.register_forward_pre_hook(layer, with_kwargs=True).remove)
        undo.callback(
            self.parts.rotary(self.model).register_forward_pre_hook(rotary, with_kwargs=True).remove
        )
        return undo


def _probe(
    loaded: Loaded, pruner: Trained, token: Tensor, batch: _Batch, frozen: Frozen, cache: Any
) -> list[tuple[dict[Signal, Tensor], Tensor | None]]:
    """Per lesson, the probe's view of the tokens and the loss on the answer, which stands behind
    the probe and sees it.

    The probe's own position predicts the answer's first token, each of these the next.
    """
    parts, model = loaded.family, loaded.model
    decoder: Any = parts.decoder(model)
    answers, rows = batch.answers, len(batch.answers)
    depth, site = len(parts.layers(model)), pruner.plan(None, 1, len(parts.layers(model)))[0].site
    read = model.get_input_embeddings()(answers[:, :-1].clamp(min=0))
    embeds = torch.cat([token[0].to(read).expand(rows, 1, -1), read], dim=1)
    whole = Stream.of_prompt(rows, batch.visual.shape[1], batch.inputs.get("attention_mask"))
    steps = torch.arange(1, embeds.shape[1] + 1, device=embeds.device)
    ids = frozen.ids[..., -1:].expand(*frozen.ids.shape[:-2], rows, 1) + steps
    with probed(decoder.config):
        hidden, heads = aside(
            parts,
            model,
            embeds,
            added=token,
            ids=ids,
            streams=[whole] * depth,
            cache=cache,
            kwargs=frozen.kwargs,
            watched=site.layer - 1,
        )
    assert heads is not None
    logits = model.get_output_embeddings()(decoder.norm(hidden)).float()
    valid = whole.valid(embeds.device)
    found: list[tuple[dict[Signal, Tensor], Tensor | None]] = []
    for row in range(rows):
        # to the probe the answer does not exist yet, at inference neither
        seen = heads.logits(row, slice(0, 1))[:, 0, : batch.visual.shape[1] + 1]
        visible = torch.cat([valid[row], valid.new_ones(1)])
        columns = batch.visual[row].nonzero()[:, 0].to(embeds.device)
        attention = seen.masked_fill(~visible, float("-inf")).log_softmax(-1)
        loss = cross_entropy(logits[row], answers[row], ignore_index=IGNORED)
        found.append(
            (
                {
                    Signal.PROBE_LOGITS: seen[:, columns],
                    Signal.PROBE_LOG_ATTENTION: attention[:, columns],
                },
                loss,
            )
        )
    return found


def _pixels(lesson: Lesson) -> Tensor:
    import numpy as np

    return torch.from_numpy(np.array(lesson.image))[None]
