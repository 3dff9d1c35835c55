"""Show: one image, and which of its tokens methods keep."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prunebench.benchmarks import Benchmark, Request, expand, load_task
from prunebench.border import images
from prunebench.border.text import message, one_line, short_path
from prunebench.budget import BudgetError
from prunebench.display import part_of, pixels_of
from prunebench.models.base import Unsupported
from prunebench.models.inputs import image_parts, user_message
from prunebench.run import grid as grids
from prunebench.run import options
from prunebench.run.backend import ModelSetup
from prunebench.run.cell import WITHOUT_BUDGET, Cell
from prunebench.run.kept import kept
from prunebench.run.names import check_path, expanded
from prunebench.run.options import OptionError
from prunebench.run.quality import Bound
from prunebench.run.samples import Samples, prepared
from prunebench.run.transformers_backend import TransformersBackend
from prunebench.run.view import View
from prunebench.sites import Site
from prunebench.study.record import BASELINE, RIGHT

Box = tuple[float, float, float, float]
"""Left, top, right and bottom in pixels."""

NEW_TOKENS = 16
"""Of an answer about an image of the user's own."""


@dataclass(frozen=True)
class Shown:
    """What one method left of an image, and what the model then answered.

    `image` is the part that the tokens cover; `masks` [rows, columns] are True where a token is
    kept, one a stage with its caption; `boxes` outline the evidence in pixels of `image`. `right`
    is None where it is not known what is right.
    """

    name: str
    answer: str
    right: bool | None
    image: Any
    masks: list[Any]
    captions: list[str]
    boxes: list[Box]


@dataclass(frozen=True)
class Picture:
    """What a drawing needs: the unpruned model first, then every method; `left_out` are those of
    several that cannot meet the budget or run on the model, by name with the reason.
    """

    strips: list[Shown]
    title: str
    out: Path
    left_out: dict[str, str]


def picture(texts: Iterable[str]) -> Picture:
    """What key=value texts ask for; raises OptionError, GridError and what a sweep raises.

    The unpruned model answers first, then every method ("fastv,divprune"), each drawn stage by
    stage. What cannot be shown of a single method is raised, of one among several it is left out.
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
        strips, left_out = _strips(backend, view, cells, samples)
    request = samples.requests[0]
    title = request.question
    if benchmark is not None:
        strips = [replace(one, right=_is_right(benchmark, request, one.answer)) for one in strips]
        title += f" (right: {request.reference})"
    return Picture(strips, title, Path(expanded(view.out)), left_out)


def _strips(
    backend: TransformersBackend, view: View, cells: Sequence[Cell], samples: Samples
) -> tuple[list[Shown], dict[str, str]]:
    """What every cell left of the image, and why some left nothing."""
    strips, errors = [], {}
    for cell in cells:
        try:
            strips.append(_shown(backend, view, cell, samples))
        except (BudgetError, Unsupported) as error:
            errors[cell.variant.label] = error
    methods = [cell for cell in cells if cell.variant.label != BASELINE]
    if errors and len(errors) == len(methods):
        raise next(iter(errors.values()))
    return strips, {label: one_line(message(error), 300) for label, error in errors.items()}


def _is_right(benchmark: Benchmark, request: Request, answer: str) -> bool | None:
    """Whether the task counts the answer as right; None where its scores are no shares, or stand
    for several answers together.
    """
    metric = benchmark.primary
    if benchmark.refusal or not benchmark.higher_is_better(metric):
        return None
    scores = benchmark.score({request.doc_id: answer}).get(request.doc_id)
    value = None if scores is None else benchmark.value(scores, metric)
    return value >= RIGHT if value is not None and 0 <= value <= 1 else None


def _shifted(box: Box, corner: tuple[int, int]) -> Box:
    """A box in pixels of the whole image as one in those of the part that begins at `corner`."""
    left, top, right, bottom = box
    x, y = corner
    return left - x, top - y, right - x, bottom - y


def _shown(backend: TransformersBackend, view: View, cell: Cell, full: Samples) -> Shown:
    """Let one method answer, and note what it kept."""
    bound = Bound.alone(backend, cell)
    one = kept(backend, bound, full)
    image = image_parts(one.samples.messages[0])[0]["url"]
    captions = [_caption(site, bound.on_pixels) for site, _ in one.masks]
    region = one.masks[0][1].region  # the same in every stage
    part = part_of(image, region)
    corner = (0, 0) if region is None else pixels_of(image, region)[:2]
    # in an image that a method has shrunk the evidence lies elsewhere
    evidence = () if bound.on_pixels else full.requests[0].boxes_in(0)
    boxes = [_shifted(box, corner) for box in evidence]
    masks = [stage.cells for _, stage in one.masks]
    name = cell.variant.label
    if name == BASELINE:
        name = f"{BASELINE}: the unpruned model"
    elif name not in WITHOUT_BUDGET:
        name += f" at {view.budget}"
    return Shown(name, one.answer.texts[0].strip(), None, part, masks, captions, boxes)


def _caption(site: Site | None, resized: bool) -> str:
    """What stands under the mask of a stage."""
    if site is None:
        return "unpruned"
    return "a smaller image" if resized else f"from {site} on"


def _cells(view: View, settings: options.Settings) -> list[Cell]:
    """The unpruned model and the methods, as a grid reads them: names, settings and budgets meet
    the same checks.
    """
    methods = [name.strip() for name in view.method.split(",") if name.strip()]
    if not methods:
        raise OptionError("method is empty; name at least one, such as method=random")
    content = {
        "models": [view.model],
        "methods": [BASELINE, *methods],
        "budgets": [view.budget],
        "seed": view.seed,
    }
    grid = grids.build({**content, "controls": False, "cost": False}, settings)
    return grid.cells([view.task])


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
