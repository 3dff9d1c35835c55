"""Batch: lessons in the model's terms: its inputs, where their tokens lie, what the layers got."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prunebench.models import Loaded
from prunebench.models.base import Originals
from prunebench.models.inputs import user_message
from prunebench.select import pooled
from prunebench.tokens import Layout
from prunebench.training.lesson import Lesson

Inputs = dict[str, Any]
"""What a model is called with, by name."""

IGNORED = -100
"""The target of a place that no loss is of, as torch has it."""


def inputs_of(loaded: Loaded, lessons: Sequence[Lesson]) -> Inputs:
    """The model's inputs: every lesson's image and question as the user's one message."""
    return loaded.process([user_message(lesson.image, lesson.question) for lesson in lessons])


def layouts_of(loaded: Loaded, inputs: Inputs, lessons: Sequence[Lesson]) -> list[Layout]:
    """Where every lesson's tokens lie in its image."""
    sizes = [[lesson.image.size] for lesson in lessons]
    originals = Originals(sizes, loaded.processor)
    return loaded.family.layouts(loaded.model, inputs, originals)


def target(layout: Layout, lesson: Lesson) -> Tensor:
    """[N] 1.0 where what a token sees touches an evidence box, else 0.0.

    A box touches every pixel of which it covers any part.
    """
    width, height = lesson.image.size
    inside = torch.zeros(1, height, width)
    for left, top, right, bottom in lesson.boxes:
        # whole pixels that the box touches
        # (from 0 at least: a slice counts what is below it from the far edge)
        rows = slice(int(max(0, top)), math.ceil(bottom))
        columns = slice(int(max(0, left)), math.ceil(right))
        inside[:, rows, columns] = 1
    return (pooled(layout, [inside]) > 0).float()


def pixels_of(lesson: Lesson) -> Tensor:
    """[1, height, width, 3] of the image."""
    return torch.from_numpy(np.array(lesson.image))[None]


class Batch:
    """Lessons as the model's inputs; `visual` [B, S] marks their visual tokens, `answers` [B, T]
    are the ids of their answers with the end mark, filled up with IGNORED.
    """

    def __init__(self, loaded: Loaded, lessons: Sequence[Lesson]) -> None:
        self.inputs = inputs_of(loaded, lessons)
        self.visual = loaded.family.visual(loaded.model, self.inputs["input_ids"])
        tokenizer = loaded.processor.tokenizer
        rows = []
        for lesson in lessons:
            ids = tokenizer(lesson.answer, add_special_tokens=False)["input_ids"]
            rows.append([*ids, tokenizer.eos_token_id])
        longest = max(map(len, rows))
        for row in rows:
            row += [IGNORED] * (longest - len(row))
        self.answers = torch.tensor(rows, device=loaded.model.device)


class PromptRecord:
    """What the decoder's layers were given for a prompt, for tokens that run behind it later.

    `kwargs` are those of the first layer, `ids` [.., B, S] the position ids.
    """

    def __init__(self, loaded: Loaded) -> None:
        self.family = loaded.family
        self.model = loaded.model
        self.kwargs: dict[str, Any] = {}
        self.ids: Any = None

    def recording(self) -> ExitStack:
        """A context in which the model is called once."""

        def at_layer(_module: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
            self.kwargs = dict(kwargs)

        def at_rotary(_module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
            # the second argument, by name or by place
            self.ids = kwargs.get("position_ids")
            if self.ids is None and len(args) > 1:
                self.ids = args[1]

        undo = ExitStack()
        layer = self.family.layers(self.model)[0]
        layer_hook = layer.register_forward_pre_hook(at_layer, with_kwargs=True)
        undo.callback(layer_hook.remove)
        rotary = self.family.rotary(self.model)
        rotary_hook = rotary.register_forward_pre_hook(at_rotary, with_kwargs=True)
        undo.callback(rotary_hook.remove)
        return undo

    def ids_behind(self, rows: Tensor, count: int) -> Tensor:
        """[.., R, count] position ids of so many tokens behind the prompts number `rows` [R].

        They count on from the prompt's last, as the model itself counts when it generates.
        """
        last = self.ids[..., -1:]
        if last.shape[-2] == 1:  # of all samples, where the model numbers all prompts alike
            samples = int(rows.max()) + 1
            last = last.expand(*last.shape[:-2], samples, 1)
        steps = torch.arange(1, count + 1, device=last.device)
        behind: Tensor = last.index_select(-2, rows) + steps
        return behind
