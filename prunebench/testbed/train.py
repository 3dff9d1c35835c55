"""Train a miniature: the loop around its lesson, which can be interrupted, and its log."""

import csv
import json
import logging
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from prunebench.testbed.batches import LABELS
from prunebench.testbed.learner import Lesson
from prunebench.testbed.miniatures import miniature
from prunebench.testbed.recipe import Schedule
from prunebench.testbed.scenes import KINDS

log = logging.getLogger(__name__)


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
    """Train a miniature in the run folder `out`; returns `out/model`, an ordinary `from_pretrained` folder.

    `start` is the folder of the miniature that this one begins with, left out: the shipped one. The run folder also
    holds `checkpoint.pt`, `log.csv` and `recipe.json`. A run that was interrupted goes on from its last checkpoint, step
    for step as if it had not been (`resume=False` starts over). The model card's figures are over `held_out` questions.
    Raises ValueError if `out` holds a run of another model, seed or size, and for a model that is not known.
    """
    kind = miniature(model)
    recipe = recipe or kind.recipe
    out.mkdir(parents=True, exist_ok=True)
    resumed = resume and (out / "checkpoint.pt").exists()
    fresh = kind.build(recipe.sizes, seed)
    if kind.begin is not None and not resumed:
        kind.begin(fresh, start)
    lesson = kind.lesson(fresh, recipe, seed)
    learnt = [weight for weight in lesson.student.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=recipe.weight_decay)
    identity = {"model": model, "seed": seed, "sizes": asdict(recipe.sizes)}
    step, seconds = 0, 0.0
    if resumed:
        step, seconds = _load(out, identity, lesson, optimizer)
        log.info("resumed at step %d of %d", step, recipe.steps)
    _start_log(out / "log.csv", step)
    _note_recipe(out / "recipe.json", {"model": model, "seed": seed, **asdict(recipe)}, step)
    totals: dict[str, list[float]] = defaultdict(list)
    began, saved = time.monotonic() - seconds, time.monotonic()
    with _progress(recipe.steps, step) as advance:
        while step < recipe.steps:
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate(step)
            for name, value in _step(lesson, optimizer, learnt, recipe, step).items():
                totals[name].append(value)
            step += 1
            if step % log_every == 0 or step == recipe.steps:
                row = {name: sum(values) / len(values) for name, values in totals.items()}
                totals.clear()
                seconds = time.monotonic() - began
                _append_log(out / "log.csv", step, seconds, recipe.rate(step - 1), row)
                advance(step, seconds, row)
                if time.monotonic() - saved >= checkpoint_seconds or step == recipe.steps:
                    _save(out, identity, lesson, optimizer, step, seconds)
                    saved = time.monotonic()
    from prunebench.testbed.export import export

    return export(out, out / "model", held_out=held_out)


def _step(
    lesson: Lesson, optimizer: torch.optim.Optimizer, learnt: list[nn.Parameter], recipe: Schedule, step: int
) -> dict[str, float]:
    """One update; returns losses and accuracies by name."""
    data = lesson.batch(step)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=recipe.precision == "bfloat16"):
        loss, figures = lesson.loss(data, step)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(learnt, 1.0)
    optimizer.step()
    return {"loss": float(loss.detach()), **figures}


_COLUMNS = [
    "step",
    "seconds",
    "rate",
    "loss",
    "dense_loss",
    *(f"see_{name}" for name in LABELS),
    "answer_loss",
    *KINDS,
    "evidence_mass",
    "match_loss",
    "match",
]


def _start_log(path: Path, step: int) -> None:
    """Keep the lines up to `step`, so that a run that is continued leaves no gap and no line twice."""
    kept = []
    if path.exists() and step:
        with path.open(newline="") as file:
            kept = [row for row in csv.DictReader(file) if int(row["step"]) <= step]
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, _COLUMNS)
        writer.writeheader()
        writer.writerows(kept)
    os.replace(temporary, path)


def _append_log(path: Path, step: int, seconds: float, rate: float, row: dict[str, float]) -> None:
    figures = {name: f"{value:.4f}" for name, value in row.items()}
    with path.open("a", newline="") as file:
        csv.DictWriter(file, _COLUMNS).writerow({"step": step, "seconds": f"{seconds:.1f}", "rate": f"{rate:.2e}", **figures})


def _save(
    out: Path, identity: dict[str, Any], lesson: Lesson, optimizer: torch.optim.Optimizer, step: int, seconds: float
) -> None:
    state = {**identity, "step": step, "seconds": seconds}
    temporary = out / "checkpoint.tmp"
    torch.save({**state, "student": lesson.student.state_dict(), "optimizer": optimizer.state_dict()}, temporary)
    os.replace(temporary, out / "checkpoint.pt")


def _load(out: Path, identity: dict[str, Any], lesson: Lesson, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    """Step and seconds of the checkpoint, whose state goes into the lesson's student and `optimizer`."""
    state = torch.load(out / "checkpoint.pt", weights_only=True)
    for name, here in identity.items():
        if state[name] != here:
            raise ValueError(
                f"{out} holds a run with {name} {state[name]}, not {here}: choose another folder, or resume=False to start over"
            )
    lesson.student.load_state_dict(state["student"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"]), float(state["seconds"])


def _note_recipe(path: Path, settings: dict[str, Any], step: int) -> None:
    """Write the settings in force; those that a continued run began with stay under "before", with the step they ended at."""
    before: list[dict[str, Any]] = []
    if step and path.exists():
        last = json.loads(path.read_text())
        before = last.pop("before", [])
        changed = {name: value for name, value in last.items() if json.loads(json.dumps(settings.get(name))) != value}
        before += [{"until_step": step, **changed}] if changed else []
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({**settings, "before": before}, indent=2) + "\n")
    os.replace(temporary, path)


@contextmanager
def _progress(steps: int, done: int) -> Iterator[Any]:
    """A function of (step, seconds, figures) that moves a progress bar on a terminal, and logs a line elsewhere."""
    console = Console(stderr=True)

    def text(row: dict[str, float]) -> str:
        shown = ("loss", "see_shape", "see_digit", "match", *KINDS, "evidence_mass")
        return " ".join(f"{name} {row[name]:.2f}" for name in shown if name in row)

    if not console.is_terminal:
        yield lambda step, seconds, row: log.info("step %d/%d %.0f s %s", step, steps, seconds, text(row))
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
        yield lambda step, _, row: bar.update(task, completed=step, description=text(row))
