"""Train a miniature: what the shared loop repeats, and what a run folder holds besides."""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from prunebench.border.text import message, one_line
from prunebench.learning.checkpoint import Row, RunError, State, digest, open_run
from prunebench.learning.loop import Course, learn, require_number, update
from prunebench.testbed.learner import Objective
from prunebench.testbed.miniatures import Miniature, miniature
from prunebench.testbed.recipe import Schedule
from prunebench.testbed.scenes import KINDS

log = logging.getLogger(__name__)

RECIPE, MODEL = "recipe.json", "model"
"""What a run folder holds in the end, beside its checkpoint and log."""

WAY_OUT = "choose another folder, or resume=False to start over"


def train(
    out: Path,
    *,
    model: str = "tiny-qwen2.5-vl",
    seed: int = 0,
    recipe: Schedule | None = None,
    start: Path | None = None,
    resume: bool = True,
    log_every: int = 20,
    checkpoint_seconds: float = 180.0,
    held_out: int = 1000,
) -> Path:
    """Train a miniature in the run folder `out`; returns `out/model`, an ordinary `from_pretrained`
    folder.

    `start` is the folder of the miniature that this one begins with, left out: the shipped one. The
    run folder also holds `checkpoint.pt`, `log.csv` and `recipe.json`. A run that was interrupted
    goes on from its last checkpoint, step for step as if it had not been (`resume=False` starts
    over). One whose recipe changed goes on with the new one, and its model card says until which
    step the old one held. The card's figures are over `held_out` questions.

    Raises ValueError for a model that is not known, and RunError, before anything is written, where
    `out` holds a run of another model, seed, size or start, is in use or cannot be written, where
    its checkpoint is damaged, and for a start that cannot be; and at the first loss, gradient or
    weight that is no number, with the last good checkpoint as it was.
    """
    kind = miniature(model)
    recipe = recipe or kind.recipe
    if recipe.steps < 1:
        raise RunError(
            f"the recipe of {model} has {recipe.steps} steps; there must be at least one"
        )
    fresh, origin = _begun(kind, recipe, seed, start)
    identity = {"model": model, "seed": seed, "sizes": asdict(recipe.sizes), "start": origin}
    with open_run(out, identity, writes=(RECIPE,), folders=(MODEL,), way_out=WAY_OUT) as run:
        state = run.resume(recipe.steps) if resume else None
        if state is not None:
            log.info("resumed at step %d of %d", state.step, recipe.steps)
        if not resume:
            run.start_over()
        settings = _settings({"model": model, "seed": seed, **asdict(recipe)}, state, recipe.steps)
        run.write(RECIPE, f"{json.dumps(settings, indent=2)}\n".encode())
        course = _course(kind.lesson(fresh, recipe, seed), recipe, settings)
        with _progress(recipe.steps, 0 if state is None else state.step) as report:
            state = learn(
                run,
                course,
                state,
                log_every=log_every,
                checkpoint_seconds=checkpoint_seconds,
                report=report,
            )
        from prunebench.testbed.export import export

        run.log.rewrite()
        with run.replaced(MODEL) as folder:
            export(out, state, folder, held_out=held_out)
        return out / MODEL


def _begun(kind: Miniature, recipe: Schedule, seed: int, start: Path | None) -> tuple[Any, str]:
    """The model with the weights that it begins with, and their digest."""
    if start is not None and not start.is_dir():
        raise RunError(
            f"start {one_line(str(start), 100)} is no folder; give that of the miniature to begin with"
        )
    fresh = kind.build(recipe.sizes, seed)
    if kind.begin is not None:
        try:
            kind.begin(fresh, start)
        except (
            Exception
        ) as error:  # what unfit files make the loaders raise is as various as they are
            label = (
                "the shipped miniatures" if start is None else f"start {one_line(str(start), 80)}"
            )
            raise RunError(
                f"the model cannot begin with {label}: {one_line(message(error), 120)}"
            ) from error
    return fresh, digest(dict(fresh.state_dict()))


def _course(lesson: Objective, recipe: Schedule, settings: dict[str, Any]) -> Course:
    """What the run repeats; the checkpoint keeps the settings in force."""
    learnt = [weight for weight in lesson.student.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(
        learnt, lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=recipe.weight_decay
    )

    def weights() -> dict[str, Tensor]:
        return dict(lesson.student.state_dict())

    def step(number: int) -> dict[str, float]:
        return _step(lesson, optimizer, learnt, recipe, number)

    return Course(
        recipe.steps,
        weights,
        optimizer,
        recipe.rate,
        step,
        {"recipe": json.loads(json.dumps(settings))},
    )


def _step(
    lesson: Objective,
    optimizer: torch.optim.Optimizer,
    learnt: list[nn.Parameter],
    recipe: Schedule,
    step: int,
) -> dict[str, float]:
    """One update; returns losses and accuracies by name."""
    data = lesson.batch(step)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=recipe.precision == "bfloat16"):
        loss, figures = lesson.loss(data, step)
    value = require_number(float(loss.detach()), "the loss", step, optimizer)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    update(optimizer, learnt, step, clip=1.0)
    return {"loss": value, **figures}


def _settings(settings: dict[str, Any], state: State | None, steps: int) -> dict[str, Any]:
    """The settings in force; under "before" those that a run that goes on had until then, each with
    the step they ended at.
    """
    if state is None:
        return {**settings, "before": []}
    last: dict[str, Any] = state.facts["recipe"]
    if state.step == steps:  # nothing is left to learn with others
        return last
    now = json.loads(json.dumps(settings))
    changed = {
        name: value for name, value in last.items() if name != "before" and now.get(name) != value
    }
    before = [*last["before"], {"until_step": state.step, **changed}] if changed else last["before"]
    return {**settings, "before": before}


@contextmanager
def _progress(steps: int, done: int) -> Iterator[Callable[[Row], None]]:
    """A function of a line of the log that moves a progress bar on a terminal, and logs a line
    elsewhere.
    """
    console = Console(stderr=True)

    def text(row: Row) -> str:
        shown = ("loss", "see_shape", "see_digit", "match", *KINDS, "evidence_mass")
        return " ".join(f"{name} {row[name]:.2f}" for name in shown if name in row)

    if not console.is_terminal:
        yield lambda row: log.info(
            "step %d/%d %.0f s %s", row["step"], steps, row["seconds"], text(row)
        )
        return
    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=steps, completed=done)
        yield lambda row: bar.update(task, completed=row["step"], description=text(row))
