"""Show: one image, and which of its tokens methods keep."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from prunebench import registry
from prunebench.benchmarks import Benchmark, Request, expand, load_task
from prunebench.border import images
from prunebench.border.text import message, one_line, short_path
from prunebench.display import Mask, mask, part_of, pixels_of
from prunebench.models.inputs import image_parts, user_message
from prunebench.run import grid as grids
from prunebench.run import options
from prunebench.run.backend import Answer, Conditions, Encoded, ModelSetup
from prunebench.run.cell import Cell
from prunebench.run.names import check_path, expanded
from prunebench.run.options import OptionError
from prunebench.run.quality import on_pixels
from prunebench.run.samples import Samples, prepared, seed_of
from prunebench.run.transformers_backend import TransformersBackend
from prunebench.run.view import View
from prunebench.study.record import BASELINE

Box = tuple[float, float, float, float]
"""Left, top, right and bottom in pixels."""

NEW_TOKENS = 16
"""Of an answer about an image of the user's own."""


@dataclass(frozen=True)
class Picture:
    """What a drawing needs: [rows, columns] masks of kept tokens, one a stage with its caption, and
    the evidence boxes.
    """

    image: Any
    masks: list[Any]
    captions: list[str]
    boxes: list[Box]
    title: str
    out: Path


def picture(texts: Iterable[str]) -> Picture:
    """What key=value texts ask for; raises OptionError, GridError and what a sweep raises.

    One method is drawn stage by stage; of several ("fastv,divprune") what each keeps to the end,
    side by side.
    """
    content: dict[str, Any] = {}
    settings = options.override(content, texts, View)
    view = options.structured(View, content)
    cells = _cells(view, settings)
    _check_out(view)
    _check_task(view)
    setup = ModelSetup(cells[0].model, trust_remote_code=view.trust_remote_code)
    backend = TransformersBackend.load(setup)
    benchmark = _benchmark(view, backend.manner.wrapper)
    with _one_line(view):
        samples = _samples(backend, view, benchmark)
        panels = [_panel(backend, view, cell, samples) for cell in cells]
    request = samples.requests[0]
    right = f" (right: {request.reference})" if benchmark is not None else ""
    if len(cells) == 1:
        masks, captions = panels[0].stages, panels[0].captions
        about = f"{cells[0].variant.label} at {view.budget}"
        title = f"{about} · {request.question} → {panels[0].answer}{right}"
    else:
        masks, captions = _last_stages(cells, panels)
        title = f"{view.budget} of the tokens · {request.question}{right}"
    # in an image that a method has shrunk the evidence lies elsewhere
    is_whole = not any(on_pixels(cell.variant.pruner) for cell in cells)
    evidence = request.boxes_in(0) if is_whole else ()
    boxes = [_shifted(box, panels[0].corner) for box in evidence]
    return Picture(panels[0].image, masks, captions, boxes, title, Path(expanded(view.out)))


@dataclass(frozen=True)
class _Panel:
    """What one method kept of the image, [rows, columns] by stage, and what the model answered.

    `image` is the part that the tokens cover, `corner` where in the whole image it begins, in
    pixels: some processors crop or pad.
    """

    image: Any
    corner: tuple[int, int]
    stages: list[Any]
    captions: list[str]
    answer: str


def _shifted(box: Box, corner: tuple[int, int]) -> Box:
    """A box in pixels of the whole image as one in those of the part that begins at `corner`."""
    left, top, right, bottom = box
    x, y = corner
    return left - x, top - y, right - x, bottom - y


def _last_stages(cells: Sequence[Cell], panels: Sequence[_Panel]) -> tuple[list[Any], list[str]]:
    """What every method keeps to the end, and its answer as the caption."""
    masks = [panel.stages[-1] for panel in panels]
    captions = []
    for cell, panel in zip(cells, panels, strict=True):
        captions.append(f"{cell.variant.label} → {panel.answer}")
    return masks, captions


def _panel(backend: TransformersBackend, view: View, cell: Cell, full: Samples) -> _Panel:
    """Let one method answer, and note what it kept."""
    pruner, budget = cell.variant.pruner, cell.budget
    samples = full
    if on_pixels(pruner):
        samples = backend.resized(full, pruner, budget)
        pruner, budget = registry.build(BASELINE), None
    seeds = [seed_of(request, view.seed) for request in full.requests]
    conditions = Conditions(budget, cell.variant.positions, seeds)
    encoded = Encoded(samples, samples.inputs)  # one method only, so nothing is shared
    answer = backend.answer(encoded, backend.ready(pruner), conditions)
    image = image_parts(samples.messages[0])[0]["url"]
    stages, captions = _stages(answer, samples, resized=samples is not full)
    region = stages[0].region  # the same in every stage
    part = part_of(image, region)
    corner = (0, 0) if region is None else pixels_of(image, region)[:2]
    masks = [stage.cells for stage in stages]
    return _Panel(part, corner, masks, captions, answer.texts[0].strip())


def _stages(answer: Answer, samples: Samples, resized: bool) -> tuple[list[Mask], list[str]]:
    """What is alive after every stage, with a caption each."""
    trace = answer.traces[0]
    layout = trace.layout if resized else samples.layouts[0]
    stages, captions = [], []
    for site in sorted(trace.kept):
        stages.append(mask(layout, trace.kept[site]))
        captions.append("resized" if resized else f"from {site} on")
    if not stages:  # nothing was pruned
        return [mask(layout, torch.arange(len(layout)))], ["unpruned"]
    return stages, captions


def _cells(view: View, settings: options.Settings) -> list[Cell]:
    """The methods as a grid reads them: names, settings and budgets meet the same checks."""
    methods = [name.strip() for name in view.method.split(",") if name.strip()]
    if not methods:
        raise OptionError("method is empty; name at least one, such as method=random")
    content = {
        "models": [view.model],
        "methods": methods,
        "budgets": [view.budget],
        "seed": view.seed,
    }
    grid = grids.build({**content, "controls": False, "cost": False}, settings)
    cells = grid.cells([view.task])
    if len(cells) > 1 and any(on_pixels(cell.variant.pruner) for cell in cells):
        raise OptionError(
            f"method={view.method} has one that shrinks the image itself; show that one alone"
        )
    return cells


def _check_out(view: View) -> None:
    """Refuse a place for the picture that cannot be written, before any work."""
    check_path("out", view.out)
    out = Path(expanded(view.out))
    if out.is_dir():
        example = short_path(out / "show.png")
        raise OptionError(f"out={short_path(out)} is a folder; name a file, such as {example}")
    if not out.parent.is_dir():
        raise OptionError(
            f"out={short_path(out)}: there is no folder {short_path(out.parent)}; make it first"
        )


def _check_task(view: View) -> None:
    """Refuse a task that cannot be named or has no such sample, before any work."""
    if view.image is not None:
        return
    check_path("task", view.task)
    if view.sample < 0:
        raise OptionError(f"sample is {view.sample}; it starts at 0")
    tasks = expand(expanded(view.task))
    if len(tasks) > 1:
        raise OptionError(f"task {view.task} is a suite; name one of {', '.join(tasks)}")


def _benchmark(view: View, model_name: str | None) -> Benchmark | None:
    """The sample's task with that sample alone and its prompt for the model; None where an image
    file is drawn.
    """
    if view.image is not None:
        return None
    (task,) = expand(expanded(view.task))
    return load_task(
        task,
        limit=1,
        start=view.sample,
        max_image_pixels=view.max_image_pixels,
        model_name=model_name,
    )


def _samples(backend: TransformersBackend, view: View, benchmark: Benchmark | None) -> Samples:
    """The one sample that is drawn: the task's, or the user's own image with a question."""
    if benchmark is not None:
        samples = backend.read(benchmark, benchmark.requests)
        count = len(samples.sizes[0])
        if count != 1:
            sample = samples.requests[0].sample_id
            raise OptionError(f"sample {sample} has {count} images; show draws one")
        return samples
    assert view.image is not None
    image = images.load(view.image, max_pixels=view.max_image_pixels)
    request = Request(view.image, 0, view.question, "", {"max_new_tokens": NEW_TOKENS}, ())
    return prepared(backend.loaded, [request], [user_message(image, view.question)])


@contextmanager
def _one_line(view: View) -> Iterator[None]:
    """What processors, models and methods raise at an image that they cannot take, as an
    OptionError; our own errors stay.
    """
    try:
        yield
    except Exception as error:
        if type(error).__module__.startswith("prunebench."):
            raise
        what = f"image {view.image}"
        if view.image is None:
            what = f"sample {view.sample} of {view.task}"
        raise OptionError(
            f"{one_line(what, 100)} cannot be shown to {one_line(view.model, 60)}: "
            f"{type(error).__name__}: {one_line(message(error), 100)}; take another image"
        ) from error
