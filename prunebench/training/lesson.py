"""Lesson: a question to learn from, and what gives such questions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from prunebench.learning.checkpoint import digest
from prunebench.learning.folder import RunError

Box = tuple[float, float, float, float]

DataError = RunError
"""Training data that cannot be read keep a run from beginning or going on, as anything else does.
"""


@dataclass(frozen=True)
class Lesson:
    """One question: `image` is a PIL image, `boxes` (left, top, right, bottom) its evidence in
    pixels, `masks` [Q, H, W] the objects in it where they are known.
    """

    name: str
    image: Any
    question: str
    answer: str
    boxes: tuple[Box, ...]
    masks: Tensor | None = None
    complexity: int | None = None


def box_of(edges: Sequence[float]) -> Box:
    """A box of left, top, right and bottom."""
    left, top, right, bottom = edges
    return float(left), float(top), float(right), float(bottom)


class TrainingData(ABC):
    """A source of lessons; what it gives is a pure function of what it is asked for."""

    @abstractmethod
    def batch(self, step: int, count: int) -> list[Lesson]:
        """`count` lessons of the training part for a step, counted on without end."""

    @abstractmethod
    def held_out(self, count: int) -> Iterator[Lesson]:
        """Up to `count` lessons that are never trained on."""

    def identity(self) -> dict[str, Any]:
        """What makes these data these data, as plain values: of generated ones the first lessons
        say it.
        """
        first = []
        for lesson in self.batch(0, 4):
            texts = lesson.name, lesson.question, lesson.answer
            image = lesson.image.size, lesson.image.tobytes()
            first.append((*texts, lesson.boxes, *image))
        return {"kind": type(self).__name__, "first": digest(first)}
