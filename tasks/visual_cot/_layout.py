"""Layout: where the public data of Visual-CoT lie on disk, questions and images.

The benchmark's questions are `viscot_benchmark/benchmark/SET.json` of the repository
deepcs233/Visual-CoT on GitHub; the questions to train on are `metadata/SET_cot_train.jsonl` of the
data set of that name on the hub; so are the images of both, one tar cut into
`cot_images_tar_split/cot_images_00` and so on, which holds a folder a set. Both kinds of files were
read, one of each, when this was written; the names inside the tar were seen in others' code alone,
so several are looked for.
"""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from prunebench.tasks.visual_cot._parts import Archive

from prunebench.benchmarks.request import TaskError
from prunebench.border.text import message, one_line, short_path

SETS = (
    "flickr30k",
    "gqa",
    "openimages",
    "docvqa",
    "infographicsvqa",
    "textvqa",
    "textcap",
    "dude",
    "sroie",
    "visual7w",
    "vsr",
    "cub",
)

SPLITS = ("val", "train")

FOLDERS = {"textcap": "textvqa", "visual7w": "v7w"}
"""The folder of a set's images, where it has another name than the set."""

PLACE = "PRUNEBENCH_VISUAL_COT"
"""The environment variable that names the folders to look through."""

HUB = "deepcs233/Visual-CoT"

QUESTIONS = {
    "val": ("viscot_benchmark/benchmark/{}.json", "benchmark/{}.json"),
    "train": ("metadata/{}_cot_train.jsonl", "viscot_dataset/{}_cot_train.jsonl"),
}

UNPACKED = (
    "cot",
    "cot_image_data",
    "cot/cot_image_data",
    "images/cot_image_data",
    "cot_images_tar_split/cot_image_data",
    "playground/data/cot",
    ".",
)
"""Where the folders of the sets may lie below one of the folders."""

ASKED = re.compile(r"\s*Please (?:think step by step and )?provide the bounding box.*", re.DOTALL)
"""What the data put behind a question for models that answer with a box first."""

BOX = re.compile(r"###\[([^\]]+)\]$")

ROUNDING = 0.02
"""The share of an image's longer side by which a box may reach beyond it, besides one pixel."""

ORIENTATION, SIDEWAYS = 0x0112, (5, 6, 7, 8)
"""The Exif tag that says how a camera was held, and its values for an image on its side."""

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Question:
    """One question; `image` is its place as SET/FILE, `box` (left, top, right, bottom) in pixels,
    None where the data give one that is not in the image.
    """

    name: str
    image: str
    question: str
    answer: str
    box: Box | None

    def row(self) -> dict[str, Any]:
        """The row of the task's data."""
        return {
            "question_id": self.name,
            "image": self.image,
            "question": self.question,
            "answer": self.answer,
            "evidence_box": None if self.box is None else list(self.box),
        }


@dataclass
class Layout:
    """The folders that hold the data, searched in their order."""

    folders: tuple[Path, ...]
    _archives: dict[Path, Archive | None] = field(default_factory=dict)
    _sizes: dict[str, tuple[int, int] | None] = field(default_factory=dict)

    def questions(self, name: str, split: str) -> list[Question]:
        """All questions of a set; raises TaskError where they, or all their images, are missing,
        and for a file that is damaged.
        """
        file = self._file(name, split)
        try:
            text = file.read_text(encoding="utf-8-sig")
            rows = _rows(text, file)
            questions = [_question(row, name, number) for number, row in enumerate(rows)]
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            reason = f"{type(error).__name__}: {one_line(message(error), 80)}"
            raise TaskError(f"{short_path(file)} is no file of Visual-CoT ({reason})") from error
        if not any(self.has(question.image) for question in questions):
            first = questions[0].image if questions else name
            raise TaskError(
                f"no image of Visual-CoT's {name}, such as {first}, lies below {self._said()}; "
                f"hf download --repo-type dataset {HUB}, and name its folder in {PLACE}"
            )
        return [self._fitted(question) for question in questions]

    def source(self, image: str) -> Path | bytes | None:
        """An image as a file, or as its content in the tar; None where it lies nowhere."""
        file = self._unpacked(image)
        if file is not None:
            return file
        for archive in self._archives_here():
            if image in archive:
                return archive.read(image)
        return None

    def has(self, image: str) -> bool:
        """Whether an image lies anywhere."""
        archives = self._archives_here()
        return self._unpacked(image) is not None or any(image in one for one in archives)

    def mark(self, image: str) -> str:
        """By what an image is told from another of its name: its bytes and pixels, or that it is
        missing.
        """
        file = self._unpacked(image)
        if file is not None:
            return f"{file.stat().st_size} {self._size(image)}"
        for archive in self._archives_here():
            if image in archive:
                return f"{archive.size(image)} {self._size(image)}"
        return "missing"

    def _file(self, name: str, split: str) -> Path:
        """The file of a set's questions."""
        for folder in self.folders:
            for pattern in QUESTIONS[split]:
                file = folder / pattern.format(name)
                if file.is_file():
                    return file
        name_of_file = QUESTIONS[split][0].format(name)
        source = f"git clone https://github.com/{HUB}" if split == "val" else f"hf download {HUB}"
        raise TaskError(
            f"no {name_of_file} of Visual-CoT lies below {self._said()}; {source}, and name the "
            f"folders of questions and images in {PLACE}, with {os.pathsep!r} between"
        )

    def _said(self) -> str:
        """The folders, for a message."""
        if not self.folders:
            return f"{PLACE}, which is not set"
        return f"{PLACE}={one_line(os.pathsep.join(map(str, self.folders)), 80)}"

    def _unpacked(self, image: str) -> Path | None:
        """The file of an image."""
        for folder in self.folders:
            for base in UNPACKED:
                file = folder / base / image
                if file.is_file():
                    return file
        return None

    def _archives_here(self) -> list[Archive]:
        """The tars of the folders, in parts as they are on the hub."""
        for folder in self.folders:
            if folder not in self._archives:
                parts = sorted((folder / "cot_images_tar_split").glob("cot_images_[0-9]*"))
                self._archives[folder] = Archive.opened(parts) if parts else None
        return [archive for archive in self._archives.values() if archive is not None]

    def _size(self, image: str) -> tuple[int, int] | None:
        """Width and height of the upright image, from the file's head; None where it cannot be
        read, which it says itself when it is asked.
        """
        if image not in self._sizes:
            source = self.source(image)
            file = io.BytesIO(source) if isinstance(source, bytes) else source
            self._sizes[image] = None if file is None else _upright_size(file)
        return self._sizes[image]

    def _fitted(self, question: Question) -> Question:
        """The question with its box cut to its image; without one that lies elsewhere, for some of
        the data's boxes are in other pixels.
        """
        size = self._size(question.image)
        if size is None or question.box is None:
            return question
        width, height = size
        left, top, right, bottom = question.box
        slack = 1 + ROUNDING * max(width, height)
        fits = min(left, top) >= -slack and right <= width + slack and bottom <= height + slack
        box = (max(0.0, left), max(0.0, top), min(float(width), right), min(float(height), bottom))
        has_area = box[0] < box[2] and box[1] < box[3]
        kept = box if fits and has_area else None
        return replace(question, box=kept)


def layout() -> Layout:
    """The layout below PRUNEBENCH_VISUAL_COT, or of the hub's cache where that is not set."""
    return _layout(os.environ.get(PLACE, ""))


@cache
def _layout(places: str) -> Layout:
    folders = [Path(place).expanduser() for place in places.split(os.pathsep) if place]
    missing = [folder for folder in folders if not folder.is_dir()]
    if missing:
        raise TaskError(f"{PLACE} names {short_path(missing[0])}, which is no folder")
    return Layout(tuple(folders or _downloaded()))


def _downloaded() -> Iterator[Path]:
    """The folder of the data set in the hub's cache, if it is there; nothing is fetched: it takes
    140 GB.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        yield Path(snapshot_download(HUB, repo_type="dataset", local_files_only=True))
    except (LocalEntryNotFoundError, OSError, ValueError):
        return


def _upright_size(file: Path | io.BytesIO) -> tuple[int, int] | None:
    """Width and height of an image when it is upright."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            width, height = image.size
            sideways = image.getexif().get(ORIENTATION, 1) in SIDEWAYS
    except Exception:  # what a damaged file makes PIL raise is as various as the damage
        return None
    return (height, width) if sideways else (width, height)


def _rows(text: str, file: Path) -> list[dict[str, Any]]:
    """What a file holds, a JSON list or a JSON object a line."""
    if file.suffix == ".json":
        rows: list[dict[str, Any]] = json.loads(text)
        return rows
    # at line feeds alone: other line ends may stand in a question
    return [json.loads(line) for line in text.split("\n") if line.strip()]


def _question(row: dict[str, Any], name: str, number: int) -> Question:
    """A question of either file; raises ValueError and its like for anything else."""
    if "conversations" not in row:
        folder = FOLDERS.get(name, name)
        image, boxes = f"{folder}/{row['image']}", [_box(box) for box in row["bboxs"]]
        return Question(str(number), image, str(row["question"]), str(row["answer"]), _union(boxes))
    whole, part = row["image"][0], row["image"][-1]
    question = row["conversations"][0]["value"].removeprefix("<image>").strip()
    answer = str(row["conversations"][-1]["value"])
    match = BOX.search(part)
    box = None if match is None else _box(match[1].split(","))
    identity = str(row.get("question_id", number))
    return Question(identity, whole.removeprefix("cot/"), ASKED.sub("", question), answer, box)


def _box(edges: Any) -> Box:
    left, top, right, bottom = map(float, edges)
    return left, top, right, bottom


def _union(boxes: list[Box]) -> Box:
    """The one box around several, as the benchmark has it."""
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)
