"""What methods learn from: questions about images whose answer and evidence boxes are known."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunebench.border import images
from prunebench.border.bounds import shown
from prunebench.border.text import message, one_line
from prunebench.learning.checkpoint import RunError, digest
from prunebench.testbed.scenes import FINE_KINDS, KINDS, RESOLUTIONS, ask, fine_scene, scene

Box = tuple[float, float, float, float]

TRAINING_STREAM, HELD_OUT_STREAM = 20_000_000, 3
"""Streams of scenes; the built-in tasks ask about stream 1, the miniatures learnt from stream
10,000,000.
"""


DataError = RunError
"""Training data that cannot be read keep a run from beginning or going on, as anything else does.
"""

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
"""Files that a row may name by their last part alone."""

ENDS = 64 * 1024
"""Bytes at either end of an image by which it is told from another of the same size; reading all of
a large data set would take longer than a short training.
"""

ORIENTATION = 0x0112


@dataclass(frozen=True)
class Lesson:
    """One question: `image` is a PIL image, `boxes` (left, top, right, bottom) its evidence in
    pixels, `masks` [Q, H, W].
    """

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

    def identity(self) -> dict[str, Any]:
        """What makes these data these data, as plain values: of generated ones the first lessons
        say it.
        """
        first = [
            (
                lesson.name,
                lesson.question,
                lesson.answer,
                lesson.boxes,
                lesson.image.size,
                lesson.image.tobytes(),
            )
            for lesson in self.batch(0, 4)
        ]
        return {"kind": type(self).__name__, "first": digest(first)}


class Scenes(TrainingData):
    """Generated scenes; where a question's evidence is no single object, all of them are."""

    def __init__(self, seed: int, fine: float = 0.0) -> None:
        self.seed, self.fine = seed, fine

    def identity(self) -> dict[str, Any]:
        return {"seed": self.seed, "fine": self.fine, **super().identity()}

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

    def _lesson(
        self, stream: int, number: int, fine: bool, size: tuple[int, int] | None = None
    ) -> Lesson:
        from PIL import Image

        about = fine_scene(stream, number) if fine else scene(stream, number, size=size)
        kinds = FINE_KINDS if fine else KINDS
        question = ask(
            about, kinds[number % len(kinds)], np.random.default_rng([stream, number, 2])
        )
        evidence = (
            [thing.box for thing in about.objects]
            if question.evidence is None
            else [question.evidence]
        )
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


@dataclass(frozen=True)
class _Row:
    """A line of a file: where it stands, and what it says; `image` is the file that it means."""

    where: str
    image: Path
    question: str
    answer: str
    boxes: tuple[Box, ...]


class VisualCoT(TrainingData):
    """A folder in the layout of Visual-CoT: `*.jsonl` with image, question, answer and bboxs;
    images anywhere below.

    A line's `bboxs` are [left, top, right, bottom] in pixels of the upright image; one that reaches
    beyond it by more than rounding does is in other pixels, and refused. Every 20th line is held
    out; the others come in an order drawn from `seed`. All lines and the head of every image are
    read at once, so that a run does not end at a bad one after hours. Raises DataError naming the
    file and line that cannot be read.
    """

    EVERY = 20

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        self._digest = sha256()
        try:
            rows = self._rows()
        except OSError as error:
            raise DataError(
                f"data {_short(folder)} cannot be read: {error.strerror or message(error)}"
            ) from error
        self.aside = rows[:: self.EVERY]
        self.rows = [row for number, row in enumerate(rows) if number % self.EVERY]
        if not self.rows:
            raise DataError(
                f"data {_short(folder)} hold {len(rows)} questions; there must be at least 2"
            )
        generator = torch.Generator().manual_seed(seed)
        self.order: list[int] = torch.randperm(len(self.rows), generator=generator).tolist()

    def identity(self) -> dict[str, Any]:
        """The lines by their content, the images by their size and the bytes at both ends."""
        return {"kind": type(self).__name__, "content": self._digest.hexdigest(), "seed": self.seed}

    def batch(self, step: int, count: int) -> list[Lesson]:
        places = range(step * count, (step + 1) * count)
        return [_lesson(self.rows[self.order[place % len(self.order)]]) for place in places]

    def held_out(self, count: int) -> Iterator[Lesson]:
        return map(_lesson, self.aside[:count])

    def _rows(self) -> list[_Row]:
        """All lines of all files, in order, whose content goes into the digest."""
        files = sorted(path for path in self.folder.rglob("*.jsonl") if path.is_file())
        if not files:
            layout = "Visual-CoT keeps a line a question: image, question, answer, bboxs"
            raise DataError(f"data {_short(self.folder)} holds no *.jsonl; {layout}")
        images = _Images(self.folder)
        rows = []
        for file in files:
            content = file.read_bytes()
            name = str(file.relative_to(self.folder))
            self._digest.update(f"{name} {len(content)}\n".encode("utf-8", "surrogateescape"))
            self._digest.update(content)
            for number, line in enumerate(content.split(b"\n"), 1):
                if line.strip():
                    rows.append(_row(line, one_line(f"{name}:{number}", 100), images))
        for path in sorted({row.image for row in rows}):
            self._digest.update(_ends(path))
        return rows


class _Images:
    """The images below a folder, by the path that a line gives or, where none lies there, by its
    last part.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sizes: dict[Path, tuple[int, int]] = {}
        self._names: dict[str, list[Path]] | None = None

    def path(self, name: str) -> Path:
        """The file that a line means; raises DataError where there is none, or more than one."""
        direct = self.folder / name
        if _is_file(direct):
            return direct
        last = PurePosixPath(name).name
        named = self._by_name().get(last, [])
        # the longer name tells two of the same last part apart
        exact = [path for path in named if str(path).endswith(f"/{name.lstrip('/')}")]
        fitting = exact or named
        if len(fitting) == 1:
            return fitting[0]
        if not fitting:
            raise DataError(f"image {one_line(name, 80)} lies nowhere below {_short(self.folder)}")
        raise DataError(
            f"image {one_line(name, 80)} may be any of {len(fitting)} files below {_short(self.folder)}"
        )

    def size(self, path: Path) -> tuple[int, int]:
        """Width and height of the upright image, from the file's head."""
        if path not in self.sizes:
            self.sizes[path] = _size(path)
        return self.sizes[path]

    def _by_name(self) -> dict[str, list[Path]]:
        if self._names is None:
            self._names = {}
            for path in sorted(self.folder.rglob("*")):
                if path.suffix.lower() in SUFFIXES and path.is_file():
                    self._names.setdefault(path.name, []).append(path)
        return self._names


def open_data(name: str, seed: int) -> TrainingData:
    """ "scenes", "scenes+fine" (a quarter of them fine), or a folder in the layout of Visual-CoT; raises DataError."""
    if name in ("scenes", "scenes+fine"):
        return Scenes(seed, 0.25 if name.endswith("fine") else 0.0)
    try:
        folder = Path(name).expanduser()
        there = folder.is_dir()
    except (OSError, ValueError, RuntimeError):  # too long, a zero byte, or the home of nobody
        there = False
    if not there:
        raise DataError(
            f"data is {shown(name, 100)}; it is 'scenes', 'scenes+fine' or a folder in the layout of Visual-CoT"
        )
    return VisualCoT(folder, seed)


def _row(line: bytes, where: str, images: _Images) -> _Row:
    """One line; raises DataError naming it and what is wrong with it."""
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{where} is no Visual-CoT question, it is no JSON: {one_line(message(error), 100)}"
        ) from error
    if not isinstance(row, dict):
        raise DataError(
            f"{where} is no Visual-CoT question: it holds {shown(row)}, no object with image, question, answer, bboxs"
        )
    missing = [key for key in ("image", "question", "answer", "bboxs") if key not in row]
    if missing:
        raise DataError(f"{where} is no Visual-CoT question: it has no {missing[0]!r}")
    first = row["image"][0] if isinstance(row["image"], list) and row["image"] else row["image"]
    image = _text(first, "image", where)
    question, answer = (
        _text(row["question"], "question", where),
        _text(row["answer"], "answer", where),
    )
    boxes = _boxes(row["bboxs"], where)
    try:
        path = images.path(image)
        size = width, height = images.size(path)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    for box in boxes:
        left, top, right, bottom = box
        rounding = 1 + 0.02 * max(width, height)
        if (
            min(left, top) < -rounding
            or right > width + rounding
            or bottom > height + rounding
            or not _meets(box, size)
        ):
            raise DataError(
                f"{where}: box {shown(list(box))} lies outside its image, which has {width} x {height} pixels"
            )
    return _Row(where, path, question, answer, boxes)


def _meets(box: Box, size: tuple[int, int]) -> bool:
    """Whether any of the box lies in an image of that size."""
    return box[0] < size[0] and box[1] < size[1] and box[2] > 0 and box[3] > 0


def _text(value: Any, key: str, where: str) -> str:
    """A text that a tokenizer can read; numbers are answers, too."""
    if key == "answer" and isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise DataError(
            f"{where} is no Visual-CoT question: its {key} is {shown(value)}, which is no text"
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        raise DataError(
            f"{where} is no Visual-CoT question: its {key} {shown(value)} has half a character"
        ) from None
    return value


def _boxes(value: Any, where: str) -> tuple[Box, ...]:
    """The boxes of a line, of finite numbers, each with an area."""
    fault = DataError(
        f"{where}: bboxs {shown(value)} are no boxes [left, top, right, bottom] in pixels"
    )
    if not isinstance(value, list) or not value:
        raise fault
    boxes = []
    for box in value:
        if not isinstance(box, list) or len(box) != 4:
            raise fault
        if not all(isinstance(edge, int | float) and not isinstance(edge, bool) for edge in box):
            raise fault
        if (
            not all(abs(edge) < 1e9 and math.isfinite(edge) for edge in box)
            or box[0] >= box[2]
            or box[1] >= box[3]
        ):
            raise fault
        boxes.append((float(box[0]), float(box[1]), float(box[2]), float(box[3])))
    return tuple(boxes)


def _lesson(row: _Row) -> Lesson:
    return Lesson(row.where, _read(row.image, row.where), row.question, row.answer, row.boxes)


def _read(path: Path, where: str) -> Any:
    """The image as people see it; raises DataError where it cannot be read."""
    try:
        return images.load(path)
    except images.ImageError as error:
        raise DataError(
            f"image {_short(path)} of {where} cannot be read: {one_line(message(error), 80)}"
        ) from error


def _size(path: Path) -> tuple[int, int]:
    from PIL import Image

    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
    except Exception as error:  # as above
        raise DataError(
            f"image {_short(path)} cannot be read: {one_line(message(error), 80)}"
        ) from error
    return (height, width) if turned else (width, height)


def _ends(path: Path) -> bytes:
    """A file's size and the bytes at both ends."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(ENDS)
        file.seek(max(len(head), size - ENDS))
        return f"{size}\n".encode() + head + file.read(ENDS)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long a name, or one with a zero byte
        return False


def _short(path: Path) -> str:
    return one_line(str(path), 100)
