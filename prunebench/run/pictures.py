"""Pictures: of some questions of a study, the images and the tokens that every method keeps of
them, for the page to show.

Cells store how many tokens each stage kept, not which. So the model answers these questions once
more; what a method keeps is noted only where it keeps as many and answers the same as the cell
says, else the cell is of another model, code or data than stand here.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from prunebench.benchmarks import Benchmark, MediaError, Request
from prunebench.border import files
from prunebench.border.text import message, one_line
from prunebench.models.inputs import image_parts
from prunebench.run import grid as grids
from prunebench.run.backend import setup_of
from prunebench.run.cell import Cell, shown
from prunebench.run.grid import GridError
from prunebench.run.kept import kept
from prunebench.run.quality import Bound
from prunebench.run.samples import Samples
from prunebench.run.transformers_backend import TransformersBackend
from prunebench.run.work import TaskSource, load_benchmark
from prunebench.study.cells import StoredCell
from prunebench.study.tables import read_columns

FILE = "pictures.json"
SCHEMA = 1

SIDE = 384
"""Pixels of the longer side of an image in the page."""

QUALITY = 80
"""Of its JPEG."""

Doing = Callable[[str], None]
Note = Callable[[str], None]
Entry = dict[str, Any]


@dataclass(frozen=True)
class Choice:
    """The samples of a page by model and task, as cells name them; of the first `pictures` of each
    there is an image, of the others the question alone.
    """

    samples: Mapping[tuple[str, str], Sequence[str]]
    pictures: int


@dataclass(frozen=True)
class Content:
    """What there is to show: `images` by task and sample, `kept` by cell."""

    images: dict[str, dict[str, Entry]]
    kept: dict[str, Entry]


def write(
    study: Path, records: Sequence[StoredCell], choice: Choice, doing: Doing, note: Note
) -> Path:
    """Run the chosen samples again, and leave what they show in the study's folder; raises
    GridError where the study's question cannot be read, and what loading raises.
    """
    grid = grids.load(study / "grid.yaml")
    stored = {cell.id: cell for cell in records if cell.kind == "quality" and cell.ok}
    content = Content({}, {})
    for model in grid.models:
        doing(f"loading {model}")
        backend = TransformersBackend.load(setup_of(grid, model))
        for task in grid.tasks:
            names = choice.samples.get((shown(model), shown(task)), ())
            if not names:
                continue
            benchmark = load_benchmark(TaskSource.of(grid, task, backend.manner.wrapper))
            by_name = {one.sample_id: one for one in benchmark.requests}
            in_page = [by_name[name] for name in names if name in by_name]
            texts = content.images.setdefault(shown(task), {})
            for request in in_page:
                texts.setdefault(request.sample_id, {"question": request.question})
            requests = in_page[: choice.pictures]
            cells = [one for one in grid.cells([task]) if one.model == model and one.id in stored]
            doing(f"{one_line(task, 60)}: pictures of {len(requests)} questions")
            _task(_Task(shown(task), backend, benchmark, requests), cells, stored, content, note)
    facts = {"schema": SCHEMA, "images": content.images, "kept": content.kept}
    return files.write(study / FILE, json.dumps(facts, separators=(",", ":")).encode())


@dataclass(frozen=True)
class _Task:
    """Some questions of a task, for one model; `name` is the task's in cells."""

    name: str
    backend: TransformersBackend
    benchmark: Benchmark
    requests: Sequence[Request]


def _task(
    task: _Task,
    cells: Sequence[Cell],
    stored: Mapping[str, StoredCell],
    content: Content,
    note: Note,
) -> None:
    """Note the images of a task's questions, and what every cell keeps of them."""
    rows = {cell.id: _rows(stored[cell.id]) for cell in cells}
    groups = list(_groups(task, note))
    for samples in groups:
        content.images[task.name][samples.requests[0].sample_id] = _picture(samples)
    for cell in cells:
        entry = content.kept[cell.id] = {"fingerprint": stored[cell.id].fingerprint}
        try:
            bound = Bound.alone(task.backend, cell)
            entry["samples"] = _kept(task.backend, bound, groups, rows[cell.id])
        except Exception as error:  # a method's own code, which may fail in any way
            entry["lacks"] = one_line(message(error), 200)
            continue
        other = len(groups) - len(entry["samples"])
        if other:
            entry["lacks"] = (
                f"{other} of {len(groups)} questions come out otherwise than the cell says: it is "
                "of another model, code or machine"
            )


def _groups(task: _Task, note: Note) -> Iterator[Samples]:
    """Each of the questions by itself, ready for the model; one that cannot be read, or has not one
    image, has no picture.
    """
    for request in task.requests:
        try:
            samples = task.backend.read(task.benchmark, [request])
        except MediaError as error:
            note(str(error))
            continue
        if len(samples.sizes[0]) == 1:
            yield samples


def _rows(cell: StoredCell) -> dict[str, Entry]:
    """By sample, what a cell says of it that another run can be held against."""
    table = read_columns(cell.folder / "samples.parquet", ("sample_id", "prediction", "stages"))
    return {row["sample_id"]: row for row in table.to_pylist()}


def _kept(
    backend: TransformersBackend,
    bound: Bound,
    groups: Sequence[Samples],
    rows: Mapping[str, Entry],
) -> dict[str, list[Entry]]:
    """By sample, the stages of a method where they are those of its cell."""
    stages_of = {}
    for samples in groups:
        sample = samples.requests[0].sample_id
        row = rows.get(sample)
        if row is None:
            continue
        stages, counts, text = _stages(backend, bound, samples)
        if text == row["prediction"] and counts == (row["stages"] or []):
            stages_of[sample] = stages
    return stages_of


def _stages(
    backend: TransformersBackend, bound: Bound, full: Samples
) -> tuple[list[Entry], list[int], str]:
    """What a method keeps of one image stage by stage, how many tokens that is, and the answer."""
    one = kept(backend, bound, full)
    trace = one.answer.traces[0]
    counts = [len(trace.kept[site]) for site in sorted(trace.kept)]
    whole = "smaller image" if bound.on_pixels else "unpruned"
    stages = []
    for site, alive in one.masks:
        stages.append(_stage(whole if site is None else str(site), alive))
    return stages, counts, one.answer.texts[0]


def _stage(site: str, alive: Any) -> Entry:
    """A mask [rows, columns] as plain data: a bit a token, row by row."""
    rows, columns = alive.cells.shape
    bits = np.packbits(alive.cells.ravel()).tobytes()
    region = alive.region if alive.region is not None else (0.0, 0.0, 1.0, 1.0)
    return {
        "site": site,
        "rows": rows,
        "columns": columns,
        "bits": base64.b64encode(bits).decode(),
        "region": [round(float(edge), 5) for edge in region],
    }


def _picture(samples: Samples) -> Entry:
    """A small copy of the image, the evidence in it as shares of its sides, and the question."""
    request, (width, height) = samples.requests[0], samples.sizes[0][0]
    image: Image.Image = image_parts(samples.messages[0])[0]["url"].convert("RGB")
    image.thumbnail((SIDE, SIDE))
    content = io.BytesIO()
    image.save(content, format="JPEG", quality=QUALITY)
    boxes = []
    for left, top, right, bottom in request.boxes_in(0):
        boxes.append([left / width, top / height, right / width, bottom / height])
    encoded = base64.b64encode(content.getvalue()).decode()
    return {
        "question": request.question,
        "image": f"data:image/jpeg;base64,{encoded}",
        "boxes": boxes,
    }


__all__ = ["FILE", "Content", "GridError", "write"]
