"""What methods learn from: questions about images whose answer and evidence boxes are known."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunebench.testbed.scenes import FINE_KINDS, KINDS, RESOLUTIONS, ask, fine_scene, scene

Box = tuple[float, float, float, float]

TRAINING_STREAM, HELD_OUT_STREAM = 20_000_000, 3
"""Streams of scenes; the built-in tasks ask about stream 1, the miniatures learnt from stream 10,000,000."""


class DataError(ValueError):
    """Training data that cannot be read."""


@dataclass(frozen=True)
class Lesson:
    """One question: `image` is a PIL image, `boxes` (left, top, right, bottom) its evidence in pixels, `masks` [Q, H, W]."""

    name: str
    image: Any
    question: str
    answer: str
    boxes: tuple[Box, ...]
    masks: Tensor | None = None
    complexity: int | None = None


class TrainingData(ABC):
    """A source of lessons; what it gives is a pure function of what it is asked for."""

    @abstractmethod
    def batch(self, step: int, count: int) -> list[Lesson]:
        """`count` lessons of the training part for a step, counted on without end."""

    @abstractmethod
    def held_out(self, count: int) -> Iterator[Lesson]:
        """Up to `count` lessons that are never trained on."""


class Scenes(TrainingData):
    """Generated scenes; where a question's evidence is no single object, all of them are."""

    def __init__(self, seed: int, fine: float = 0.0) -> None:
        self.seed, self.fine = seed, fine

    def batch(self, step: int, count: int) -> list[Lesson]:
        """Scenes of one size, so that they go through a model together."""
        draw = np.random.default_rng([self.seed, step])
        fine = bool(draw.random() < self.fine)
        size = list(RESOLUTIONS)[draw.choice(len(RESOLUTIONS), p=list(RESOLUTIONS.values()))]
        stream, first = TRAINING_STREAM + self.seed, step * count
        return [self._lesson(stream, first + place, fine, size) for place in range(count)]

    def held_out(self, count: int) -> Iterator[Lesson]:
        every = round(1 / self.fine) if self.fine else 0
        for number in range(count):
            yield self._lesson(HELD_OUT_STREAM, number, bool(every) and number % every == 0)

    def _lesson(self, stream: int, number: int, fine: bool, size: tuple[int, int] | None = None) -> Lesson:
        from PIL import Image

        about = fine_scene(stream, number) if fine else scene(stream, number, size=size)
        kinds = FINE_KINDS if fine else KINDS
        question = ask(about, kinds[number % len(kinds)], np.random.default_rng([stream, number, 2]))
        evidence = [thing.box for thing in about.objects] if question.evidence is None else [question.evidence]
        masks = torch.from_numpy(about.mask()).long()
        return Lesson(
            f"{stream}-{number}",
            Image.fromarray(about.render()),
            question.text,
            question.answer,
            tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in evidence),
            masks == torch.arange(1, len(about.objects) + 1)[:, None, None],
            about.complexity,
        )


class VisualCoT(TrainingData):
    """A folder in the layout of Visual-CoT: `*.jsonl` with image, question, answer and bboxs; images anywhere below.

    A line's `bboxs` are [left, top, right, bottom] in pixels of the image. Every 20th line is held out; the others come in
    an order drawn from `seed`. Raises DataError naming the file and line that cannot be read.
    """

    EVERY = 20

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        files = sorted(folder.rglob("*.jsonl"))
        if not files:
            raise DataError(f"{folder} holds no *.jsonl; Visual-CoT keeps a line a question: image, question, answer, bboxs")
        rows = [row for file in files for row in _rows(file)]
        self.aside = rows[:: self.EVERY]
        self.rows = [row for number, row in enumerate(rows) if number % self.EVERY]
        if not self.rows:
            raise DataError(f"{folder} holds {len(rows)} questions; there must be at least 2")
        self.order = torch.randperm(len(self.rows), generator=torch.Generator().manual_seed(seed)).tolist()
        self.images = {path.name: path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp")}

    def batch(self, step: int, count: int) -> list[Lesson]:
        places = range(step * count, (step + 1) * count)
        return [self._lesson(self.rows[self.order[place % len(self.order)]]) for place in places]

    def held_out(self, count: int) -> Iterator[Lesson]:
        return (self._lesson(row) for row in self.aside[:count])

    def _lesson(self, row: dict[str, Any]) -> Lesson:
        from PIL import Image

        path = self.folder / row["image"]
        path = path if path.is_file() else self.images.get(Path(row["image"]).name, path)
        try:
            image = Image.open(path).convert("RGB")
        except OSError as error:
            raise DataError(f"image {row['image']} of {row['where']} cannot be read: {error}") from error
        boxes = tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in row["bboxs"])
        return Lesson(row["where"], image, row["question"], row["answer"], boxes)


def open_data(name: str, seed: int) -> TrainingData:
    """ "scenes", "scenes+fine" (a quarter of them fine), or a folder in the layout of Visual-CoT; raises DataError."""
    if name in ("scenes", "scenes+fine"):
        return Scenes(seed, 0.25 if name.endswith("fine") else 0.0)
    if not Path(name).is_dir():
        raise DataError(f"data is {name!r}; it is 'scenes', 'scenes+fine' or a folder in the layout of Visual-CoT")
    return VisualCoT(Path(name), seed)


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        where = f"{file.name}:{number}"
        try:
            row = json.loads(line)
            image = row["image"] if isinstance(row["image"], str) else row["image"][0]
            boxes = [[float(edge) for edge in box] for box in row["bboxs"]]
            ok = boxes and all(len(box) == 4 and box[0] < box[2] and box[1] < box[3] for box in boxes)
            made = {"image": image, "question": str(row["question"]), "answer": str(row["answer"]), "bboxs": boxes}
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise DataError(f"{file}, line {number}, is no Visual-CoT question: {type(error).__name__}: {error}") from error
        if not ok:
            raise DataError(f"{file}, line {number}: bboxs {row['bboxs']} are no boxes [left, top, right, bottom] in pixels")
        yield {**made, "where": where}
