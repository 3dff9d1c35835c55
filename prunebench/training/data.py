"""Data: what methods learn from, generated scenes or a folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from prunebench.border.bounds import shown
from prunebench.testbed.questions import ANSWERS, FINE_KINDS, ask
from prunebench.testbed.scenes import (
    HELD_OUT_STREAM,
    METHODS_STREAM,
    draw_size,
    fine_scene,
    scene,
)
from prunebench.training.lesson import DataError, Lesson, TrainingData, box_of
from prunebench.training.visual_cot import VisualCoT

FINE_SHARE = 0.25
"""Of the scenes of "scenes+fine"."""


class Scenes(TrainingData):
    """Generated scenes; where a question has no evidence, all objects are.

    `fine` is the share of steps, and of held-out scenes, that are fine ones.
    """

    def __init__(self, seed: int, fine: float = 0.0) -> None:
        self.seed = seed
        self.fine = fine

    def identity(self) -> dict[str, Any]:
        return {"seed": self.seed, "fine": self.fine, **super().identity()}

    def batch(self, step: int, count: int) -> list[Lesson]:
        """Scenes of one size, so that they go through a model together."""
        draw = np.random.default_rng([self.seed, step])
        fine = bool(draw.random() < self.fine)
        size = draw_size(draw)
        stream = METHODS_STREAM + self.seed
        numbers = range(step * count, (step + 1) * count)
        return [self._lesson(stream, number, fine, size) for number in numbers]

    def held_out(self, count: int) -> Iterator[Lesson]:
        """Scenes of all sizes, every so many of them a fine one, whatever the seed."""
        every = round(1 / self.fine) if self.fine else 0
        for number in range(count):
            fine = bool(every) and number % every == 0
            yield self._lesson(HELD_OUT_STREAM, number, fine)

    def _lesson(
        self, stream: int, number: int, fine: bool, size: tuple[int, int] | None = None
    ) -> Lesson:
        """Scene number `number` of a stream, with a question whose type follows from the number:
        the next that the scene has.
        """
        kinds: tuple[str, ...]
        if fine:
            about, kinds = fine_scene(stream, number), FINE_KINDS
        else:
            about, kinds = scene(stream, number, size=size), tuple(ANSWERS)
        rng = np.random.default_rng([stream, number, 2])
        first = number % len(kinds)
        for kind in (*kinds[first:], *kinds[:first], "count"):
            question = ask(about, kind, rng)
            if question is not None:
                break
        assert question is not None, "objects can always be counted"
        evidence = question.evidence or [thing.box for thing in about.objects]
        objects = torch.arange(1, len(about.objects) + 1)
        return Lesson(
            f"{stream}-{number}",
            Image.fromarray(about.render()),
            question.text,
            question.answer,
            tuple(box_of(box) for box in evidence),
            torch.from_numpy(about.mask()).long() == objects[:, None, None],
            about.complexity,
        )


def open_data(name: str, seed: int) -> TrainingData:
    """The data of a name: "scenes", "scenes+fine", or a folder in the layout of Visual-CoT; raises
    DataError.
    """
    if name in ("scenes", "scenes+fine"):
        return Scenes(seed, FINE_SHARE if name.endswith("fine") else 0.0)
    try:
        folder = Path(name).expanduser()
        there = folder.is_dir()
    except (OSError, ValueError, RuntimeError):  # too long, a zero byte, or the home of nobody
        there = False
    if not there:
        layouts = "'scenes', 'scenes+fine' or a folder in the layout of Visual-CoT"
        raise DataError(f"data is {shown(name, 100)}; it is {layouts}")
    return VisualCoT(folder, seed)
