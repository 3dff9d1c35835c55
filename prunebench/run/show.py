"""Picture: one image with the tokens that a method keeps drawn over it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from prunebench import models, registry
from prunebench.benchmarks import Benchmark, Request, expand, load_task
from prunebench.border import images
from prunebench.border.text import message, one_line, short_path
from prunebench.engine.session import prune
from prunebench.models import Loaded
from prunebench.models.base import Originals
from prunebench.run import grid as grids
from prunebench.run import options, quality
from prunebench.run import samples as prompts
from prunebench.run.cell import Cell
from prunebench.run.names import check_path, expanded
from prunebench.run.options import OptionError
from prunebench.run.samples import Samples, seed_of
from prunebench.study.record import BASELINE
from prunebench.tokens import Layout, Tile


@dataclass
class View:
    """What to draw: one `method`, or several with commas between, on an `image` file or sample
    number `sample` of `task`.
    """

    model: str = models.DEFAULT
    method: str = "random"
    budget: str = "0.5"
    image: str | None = None
    question: str = ""
    task: str = "scenes_mixed"
    sample: int = 0
    out: str = "show.png"
    seed: int = 0
    max_image_pixels: int = images.MAX_PIXELS
    trust_remote_code: bool = False


@dataclass(frozen=True)
class Picture:
    """What a drawing needs: [rows, columns] masks of kept tokens, one a stage with its caption, and
    the evidence boxes.
    """

    image: Any
    masks: list[Any]
    captions: list[str]
    boxes: list[tuple[float, float, float, float]]
    title: str
    out: Path


def picture(texts: Iterable[str]) -> Picture:
    """What key=value texts ask for; raises OptionError, GridError and what a sweep raises.

    One method is drawn stage by stage; of several ("fastv,divprune") what each keeps to the end,
    side by side.
    """
    given: dict[str, Any] = {}
    settings = options.override(given, texts, View)
    view = options.structured(View, given)
    cells = _cells(view, settings)
    _check_out(view)
    benchmark = _benchmark(view)
    loaded = models.load(cells[0].model, trust_remote_code=view.trust_remote_code)
    with _one_line(view):
        prompt, (question, right) = _prompt(loaded, view, benchmark)
        seen = [_seen(loaded, view, cell, prompt) for cell in cells]
    if len(cells) == 1:
        masks, captions = seen[0].stages, seen[0].captions
        title = f"{cells[0].variant.label} at {view.budget} · {question} → {seen[0].answer}{right}"
    else:
        masks = [one.stages[-1] for one in seen]
        captions = [
            f"{cell.variant.label} → {one.answer}" for cell, one in zip(cells, seen, strict=True)
        ]
        title = f"{view.budget} of the tokens · {question}{right}"
    box = prompt.requests[0].evidence_box
    whole = not any(quality.on_pixels(cell) for cell in cells)
    return Picture(
        seen[0].image,
        masks,
        captions,
        [box] if box is not None and whole else [],
        title,
        Path(expanded(view.out)),
    )


@dataclass(frozen=True)
class _Seen:
    """What one method kept of the image, [rows, columns] by stage, and what the model answered."""

    image: Any
    stages: list[Any]
    captions: list[str]
    answer: str


def _seen(loaded: Loaded, view: View, cell: Cell, prompt: Samples) -> _Seen:
    small = (
        prompts.resized(loaded, prompt, cell.variant.pruner, cell.budget)
        if quality.on_pixels(cell)
        else prompt
    )
    pruner, budget = (
        (registry.build(BASELINE), None)
        if quality.on_pixels(cell)
        else (cell.variant.pruner, cell.budget)
    )
    seeds = [seed_of(request, view.seed) for request in prompt.requests]
    with (
        prune(
            loaded.model,
            pruner,
            budget,
            positions=cell.variant.positions,
            seeds=seeds,
            **prompt.told(loaded, pruner),
        ) as trace,
        torch.inference_mode(),
    ):
        made = loaded.model.generate(
            **small.inputs, **quality.options_of(prompt.requests[0], loaded)
        )
    new = made.sequences[0, small.inputs["input_ids"].shape[1] :]
    sample = trace.samples[0]
    layout = small.layouts[0] if small is prompt else sample.layout
    stages = [_grid(layout, kept) for _, kept in sorted(sample.kept.items())]
    captions = [f"from {site} on" if small is prompt else "resized" for site in sorted(sample.kept)]
    if not stages:  # nothing was pruned
        stages, captions = [_grid(layout, torch.arange(len(layout)))], ["unpruned"]
    return _Seen(
        next(
            part["url"]
            for turn in small.messages[0]
            for part in turn["content"]
            if part["type"] == "image"
        ),
        stages,
        captions,
        loaded.processor.decode(new, skip_special_tokens=True).strip(),
    )


def _cells(view: View, settings: options.Settings) -> list[Cell]:
    """The methods as a grid reads them, so that names, settings and budgets meet the same checks."""
    methods = [name.strip() for name in view.method.split(",") if name.strip()]
    if not methods:
        raise OptionError("method is empty; name at least one, such as method=random")
    asked = {"model": view.model, "methods": methods, "budgets": [view.budget], "seed": view.seed}
    grid = grids.build({**asked, "controls": False, "cost": False}, settings)
    cells = grid.cells([view.task])
    if len(cells) > 1 and any(quality.on_pixels(cell) for cell in cells):
        raise OptionError(
            f"method={view.method} has one that shrinks the image itself; show that one alone"
        )
    return cells


def _check_out(view: View) -> None:
    """Refuse a place for the picture that cannot be written, before any work."""
    check_path("out", view.out)
    out = Path(expanded(view.out))
    if out.is_dir():
        raise OptionError(
            f"out={short_path(out)} is a folder; name a file, such as {short_path(out / 'show.png')}"
        )
    if not out.parent.is_dir():
        raise OptionError(
            f"out={short_path(out)}: there is no folder {short_path(out.parent)}; make it first"
        )


def _benchmark(view: View) -> Benchmark | None:
    """The sample's task with that sample alone; None where an image file is drawn."""
    if view.image is not None:
        return None
    check_path("task", view.task)
    if view.sample < 0:
        raise OptionError(f"sample is {view.sample}; it starts at 0")
    tasks = expand(expanded(view.task))
    if len(tasks) > 1:
        raise OptionError(f"task {view.task} is a suite; name one of {', '.join(tasks)}")
    return load_task(tasks[0], limit=1, start=view.sample, max_image_pixels=view.max_image_pixels)


def _prompt(
    loaded: Loaded, view: View, benchmark: Benchmark | None
) -> tuple[Samples, tuple[str, str]]:
    """The prompt, and for the title the question and what would be right."""
    if benchmark is not None:
        prompt = prompts.read(loaded, benchmark, benchmark.requests)
        request = prompt.requests[0]
        return _one_image(prompt), (request.question, f" (right: {request.reference})")
    assert view.image is not None
    image = images.load(view.image, max_pixels=view.max_image_pixels)
    request = Request(view.image, 0, view.question, "", {"max_new_tokens": 16}, ())
    content = [{"type": "image", "url": image}, {"type": "text", "text": view.question}]
    messages = [{"role": "user", "content": content}]
    inputs = prompts.process(loaded, [messages])
    sizes = ((image.size,),)
    layouts = tuple(loaded.family.layouts(loaded.model, inputs, Originals(sizes, loaded.processor)))
    return Samples((request,), (messages,), inputs, layouts, sizes), (view.question, "")


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
        what = (
            f"sample {view.sample} of {view.task}" if view.image is None else f"image {view.image}"
        )
        raise OptionError(
            f"{one_line(what, 100)} cannot be shown to {one_line(view.model, 60)}: "
            f"{type(error).__name__}: {one_line(message(error), 100)}; take another image"
        ) from error


def _one_image(prompt: Samples) -> Samples:
    if len(prompt.sizes[0]) != 1:
        raise OptionError(
            f"sample {prompt.requests[0].sample_id} has {len(prompt.sizes[0])} images; show draws one"
        )
    return prompt


def _grid(layout: Layout, kept: torch.Tensor) -> Any:
    """[rows, columns] bool over the image, True where a token is kept: of the crops where there are
    any, else of its one tile.
    """
    mask = torch.zeros(len(layout), dtype=torch.bool)
    mask[kept] = True
    crops = [
        n for n, tile in enumerate(layout.tiles) if tile.kind == "crop" and tile.columns * tile.rows
    ]
    shown = [
        (layout.tiles[n], mask[layout.grid(n)][:, : layout.tiles[n].columns]) for n in crops or [0]
    ]
    places = [_place(tile) for tile, _ in shown]
    ends = [
        (top + part.shape[0], left + part.shape[1])
        for (top, left), (_, part) in zip(places, shown, strict=True)
    ]
    canvas = torch.zeros(max(end[0] for end in ends), max(end[1] for end in ends), dtype=torch.bool)
    for (top, left), (_, part) in zip(places, shown, strict=True):
        canvas[top : top + part.shape[0], left : left + part.shape[1]] = part
    return canvas.numpy()


def _place(tile: Tile) -> tuple[int, int]:
    """Row and column of a tile's first cell among the cells of all crops, which are of one size."""
    if tile.region is None:
        raise OptionError(
            f"where in the image a {tile.kind} lies is not known, so it cannot be drawn"
        )
    left, top, right, bottom = tile.region
    return max(0, round(top * tile.rows / (bottom - top))), max(
        0, round(left * tile.columns / (right - left))
    )
