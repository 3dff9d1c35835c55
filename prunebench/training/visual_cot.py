"""Visual-CoT: training data in the layout of that data set, every line checked before training."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from prunebench.border import images
from prunebench.border.bounds import shown
from prunebench.border.text import message, one_line
from prunebench.training.lesson import Box, DataError, Lesson, TrainingData, box_of

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
"""Files that a row may name by their last part alone."""

KEYS = ("image", "question", "answer", "bboxs")
"""What a line holds; others are left alone."""

ENDS = 64 * 1024
"""Bytes at either end of an image by which it is told from another of the same size; reading all of
a large data set would take longer than a short training.
"""

ORIENTATION = 0x0112
"""The Exif tag that says how a camera was held."""

SIDEWAYS = (5, 6, 7, 8)
"""Its values for an image whose width and height change places when it is upright."""

ROUNDING = 0.02
"""The share of an image's longer side by which a box may reach beyond it, besides one pixel."""


@dataclass(frozen=True)
class Row:
    """A line of a file: where it stands, and what it says; `image` is the file that it means."""

    where: str
    image: Path
    question: str
    answer: str
    boxes: tuple[Box, ...]


class VisualCoT(TrainingData):
    """A folder with `*.jsonl` of image, question, answer and bboxs; images anywhere below.

    A line's `bboxs` are [left, top, right, bottom] in pixels of the upright image; one that reaches
    beyond it by more than rounding does is in other pixels, and refused. Every 20th line is held
    out; the others come in an order drawn from `seed`. All lines and the head of every image are
    read at once, so that a run does not end at a bad one after hours. Raises DataError naming the
    file and line that cannot be read.
    """

    EVERY = 20

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.seed = seed
        self._digest = sha256()
        try:
            rows = self._read_rows()
        except OSError as error:
            reason = error.strerror or message(error)
            raise DataError(f"data {_short(folder)} cannot be read: {reason}") from error
        self.held_out_rows = rows[:: self.EVERY]
        self.rows = [row for number, row in enumerate(rows) if number % self.EVERY]
        if not self.rows:
            raise DataError(
                f"data {_short(folder)} hold {len(rows)} questions; there must be at least 2"
            )
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self.rows), generator=generator)
        self.order: list[int] = order.tolist()

    def identity(self) -> dict[str, Any]:
        """The lines by their content, the images by their size and the bytes at both ends."""
        return {"kind": type(self).__name__, "content": self._digest.hexdigest(), "seed": self.seed}

    def batch(self, step: int, count: int) -> list[Lesson]:
        """The next `count` lines in the drawn order, which begins anew where it ends."""
        places = range(step * count, (step + 1) * count)
        numbers = [self.order[place % len(self.order)] for place in places]
        return [_lesson(self.rows[number]) for number in numbers]

    def held_out(self, count: int) -> Iterator[Lesson]:
        """The first `count` of the lines that are held out; images are read as they are needed."""
        return map(_lesson, self.held_out_rows[:count])

    def _read_rows(self) -> list[Row]:
        """All lines of all files, in order, whose content goes into the digest."""
        files = sorted(path for path in self.folder.rglob("*.jsonl") if path.is_file())
        if not files:
            layout = "Visual-CoT keeps a line a question: image, question, answer, bboxs"
            raise DataError(f"data {_short(self.folder)} holds no *.jsonl; {layout}")
        image_files = ImageFiles(self.folder)
        rows = []
        for file in files:
            content = file.read_bytes()
            name = str(file.relative_to(self.folder))
            # with its length, so that no content can pass for that of two files
            head = f"{name} {len(content)}\n"
            self._digest.update(head.encode("utf-8", "surrogateescape"))
            self._digest.update(content)
            # at line feeds alone: other line ends may stand in a question
            for number, line in enumerate(content.split(b"\n"), 1):
                if line.strip():
                    where = one_line(f"{name}:{number}", 100)
                    rows.append(_row(line, where, image_files))
        for path in sorted({row.image for row in rows}):
            self._digest.update(_ends(path))
        return rows


class ImageFiles:
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
        namesakes = self._by_name().get(PurePosixPath(name).name, [])
        # the longer name tells two of the same last part apart
        tail = f"/{name.lstrip('/')}"
        paths = [path for path in namesakes if str(path).endswith(tail)] or namesakes
        if len(paths) == 1:
            return paths[0]
        image = f"image {one_line(name, 80)}"
        below = f"below {_short(self.folder)}"
        if not paths:
            raise DataError(f"{image} lies nowhere {below}")
        raise DataError(f"{image} may be any of {len(paths)} files {below}")

    def size(self, path: Path) -> tuple[int, int]:
        """Width and height of the upright image, from the file's head."""
        if path not in self.sizes:
            self.sizes[path] = _size(path)
        return self.sizes[path]

    def _by_name(self) -> dict[str, list[Path]]:
        """All images by the last part of their path, listed once."""
        if self._names is None:
            self._names = {}
            for path in sorted(self.folder.rglob("*")):
                if path.suffix.lower() in SUFFIXES and path.is_file():
                    self._names.setdefault(path.name, []).append(path)
        return self._names


def _row(line: bytes, where: str, image_files: ImageFiles) -> Row:
    """One line; raises DataError naming it and what is wrong with it."""
    row = _object(line, where)
    name = row["image"]
    if isinstance(name, list) and name:  # the image, then parts cut out of it
        name = name[0]
    image = _text(name, "image", where)
    question = _text(row["question"], "question", where)
    answer = _text(row["answer"], "answer", where)
    boxes = _boxes(row["bboxs"], where)
    try:
        path = image_files.path(image)
        width, height = image_files.size(path)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    for box in boxes:
        if not _fits(box, width, height):
            outside = f"lies outside its image, which has {width} x {height} pixels"
            raise DataError(f"{where}: box {shown(list(box))} {outside}")
    return Row(where, path, question, answer, boxes)


def _object(line: bytes, where: str) -> dict[str, Any]:
    """The JSON object of a line, with all keys."""
    what = f"{where} is no Visual-CoT question"
    try:
        # -sig: a file may begin with a byte order mark, which json refuses
        row = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{what}, it is no JSON: {one_line(message(error), 100)}") from error
    if not isinstance(row, dict):
        raise DataError(f"{what}: it holds {shown(row)}, no object with {', '.join(KEYS)}")
    for key in KEYS:
        if key not in row:
            raise DataError(f"{what}: it has no {key!r}")
    return row


def _fits(box: Box, width: int, height: int) -> bool:
    """Whether a box lies in an image but for rounding, and any of it inside."""
    left, top, right, bottom = box
    rounding = 1 + ROUNDING * max(width, height)
    begins = min(left, top) >= -rounding
    ends = right <= width + rounding and bottom <= height + rounding
    meets_across = left < width and right > 0
    meets_down = top < height and bottom > 0
    return begins and ends and meets_across and meets_down


def _text(value: Any, key: str, where: str) -> str:
    """A text that a tokenizer can read; numbers are answers, too."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if key == "answer" and is_number:
        value = str(value)
    what = f"{where} is no Visual-CoT question: its {key}"
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{what} is {shown(value)}, which is no text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise DataError(f"{what} {shown(value)} has half a character") from None
    return value


def _boxes(value: Any, where: str) -> tuple[Box, ...]:
    """The boxes of a line, of finite numbers, each with an area."""
    whole = isinstance(value, list) and bool(value)
    if not whole or not all(_is_box(box) for box in value):
        raise DataError(
            f"{where}: bboxs {shown(value)} are no boxes [left, top, right, bottom] in pixels"
        )
    return tuple(box_of(box) for box in value)


def _is_box(box: Any) -> bool:
    """Whether it is four edges that have an area between them."""
    if not isinstance(box, list) or len(box) != 4:
        return False
    if not all(_is_edge(edge) for edge in box):
        return False
    left, top, right, bottom = box
    return bool(left < right and top < bottom)


def _is_edge(edge: Any) -> bool:
    """Whether it is a number of pixels; the largest integers are no float."""
    if not isinstance(edge, int | float) or isinstance(edge, bool):
        return False
    return abs(edge) < 1e9  # false for NaN and infinity as well


def _lesson(row: Row) -> Lesson:
    """The question of a line, with its image as people see it; raises DataError where that cannot
    be read.
    """
    try:
        image = images.load(row.image)
    except images.ImageError as error:
        reason = one_line(message(error), 80)
        raise DataError(
            f"image {_short(row.image)} of {row.where} cannot be read: {reason}"
        ) from error
    return Lesson(row.where, image, row.question, row.answer, row.boxes)


def _size(path: Path) -> tuple[int, int]:
    """Width and height of an image when it is upright."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            width, height = image.size
            sideways = image.getexif().get(ORIENTATION, 1) in SIDEWAYS
    except Exception as error:  # what a damaged file makes PIL raise is as various as the damage
        reason = one_line(message(error), 80)
        raise DataError(f"image {_short(path)} cannot be read: {reason}") from error
    return (height, width) if sideways else (width, height)


def _ends(path: Path) -> bytes:
    """A file's size and the bytes at both ends."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(ENDS)
        # of a short file no byte counts twice
        file.seek(max(len(head), size - ENDS))
        tail = file.read(ENDS)
    return f"{size}\n".encode() + head + tail


def _is_file(path: Path) -> bool:
    """Whether there is such a file; a name that no file can have names none."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long a name, or one with a zero byte
        return False


def _short(path: Path) -> str:
    """A path for a message."""
    return one_line(str(path), 100)
