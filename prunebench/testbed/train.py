"""Train a miniature: first its eyes, with a label for every visual token, then answers, many questions to an image."""

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
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import Qwen2_5_VLProcessor

from prunebench.testbed.batches import LABELS, NO_TARGET, SceneBatch, batch
from prunebench.testbed.export import export
from prunebench.testbed.learner import Learner
from prunebench.testbed.processor import build_processor
from prunebench.testbed.recipe import TRAINING_STREAM, Recipe
from prunebench.testbed.scenes import KINDS
from prunebench.testbed.tiny_qwen import FastQwen, build_model

log = logging.getLogger(__name__)


def train(
    out: Path,
    *,
    seed: int = 0,
    recipe: Recipe | None = None,
    resume: bool = True,
    log_every: int = 20,
    checkpoint_seconds: float = 180.0,
    held_out: int = 1000,
) -> Path:
    """Train tiny-qwen2.5-vl in the run folder `out`; returns `out/model`, an ordinary `from_pretrained` folder.

    The run folder also holds `checkpoint.pt`, `log.csv` and `recipe.json`. A run that was interrupted goes on from its
    last checkpoint, step for step as if it had not been (`resume=False` starts over). The model card's figures are over
    `held_out` questions. Raises ValueError if `out` holds a run of another seed or another size of model.
    """
    recipe = recipe or Recipe()
    out.mkdir(parents=True, exist_ok=True)
    learner = FastQwen(build_model(recipe.sizes, seed))
    student = _Student(learner, seed)
    optimizer = torch.optim.AdamW(
        student.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=recipe.weight_decay
    )
    step, seconds = 0, 0.0
    if resume and (out / "checkpoint.pt").exists():
        step, seconds = _load(out, seed, recipe, student, optimizer)
        log.info("resumed at step %d of %d", step, recipe.steps)
    _start_log(out / "log.csv", step)
    _note_recipe(out / "recipe.json", seed, recipe, step)
    processor = build_processor()
    totals: dict[str, list[float]] = defaultdict(list)
    began, saved = time.monotonic() - seconds, time.monotonic()
    with _progress(recipe.steps, step) as advance:
        while step < recipe.steps:
            data = _batch(recipe, seed, step, processor)
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate(step)
            for name, value in _step(student, optimizer, data, recipe, joint=step >= recipe.vision_steps).items():
                totals[name].append(value)
            step += 1
            if step % log_every == 0 or step == recipe.steps:
                row = {name: sum(values) / len(values) for name, values in totals.items()}
                totals.clear()
                seconds = time.monotonic() - began
                _append_log(out / "log.csv", step, seconds, recipe.rate(step - 1), row)
                advance(step, seconds, row)
                if time.monotonic() - saved >= checkpoint_seconds or step == recipe.steps:
                    _save(out, seed, recipe, student, optimizer, step, seconds)
                    saved = time.monotonic()
    return export(out, out / "model", held_out=held_out)


class _Student(nn.Module):
    """The model being trained and the head that labels its visual tokens, which is left behind afterwards."""

    def __init__(self, learner: Learner, seed: int) -> None:
        super().__init__()
        self.learner, self.model = learner, learner.module
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.head = nn.Linear(learner.feature_width, sum(LABELS.values()))


def _batch(recipe: Recipe, seed: int, step: int, processor: Qwen2_5_VLProcessor) -> SceneBatch:
    tokenizer: Any = processor.tokenizer
    return batch(
        TRAINING_STREAM + seed,
        step,
        tokens=recipe.tokens,
        questions=recipe.questions if step >= recipe.vision_steps else 0,
        colour_keyed=recipe.colour_keyed,
        encode=lambda text: list(map(tokenizer.convert_tokens_to_ids, text.split())),
        end=tokenizer.eos_token_id,
        pad=tokenizer.pad_token_id,
    )


def _step(student: _Student, optimizer: torch.optim.Optimizer, data: SceneBatch, recipe: Recipe, joint: bool) -> dict[str, float]:
    """One update; returns losses and accuracies by name."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = student.learner.see(data.pixels)
        loss, figures = _dense_loss(student.head(features).float(), data.labels, recipe)
        if joint:
            answers = student.learner.answer(features, data)
            told, more = _answer_loss(answers.logits.float(), data)
            found, attended = _evidence_loss(answers.attention[:, :, : recipe.evidence_heads], data.evidence)
            loss = recipe.dense * loss + told + recipe.evidence * found
            figures |= more | attended
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(student.parameters(), 1.0)
    optimizer.step()
    return {"loss": float(loss.detach()), **figures}


def _dense_loss(logits: Tensor, labels: Tensor, recipe: Recipe) -> tuple[Tensor, dict[str, float]]:
    """Labels [B, kinds of labels, N] of all tokens from [B, N, all classes]; accuracies count tokens with an object."""
    weights = torch.where(labels[:, 0] > 0, 1.0, recipe.background)
    loss, figures = torch.zeros(()), {}
    for number, (name, part) in enumerate(zip(LABELS, torch.split(logits, list(LABELS.values()), dim=-1), strict=True)):
        single = cross_entropy(part.transpose(1, 2), labels[:, number], reduction="none")
        loss = loss + (recipe.digit if name == "digit" else 1.0) * (single * weights).sum() / weights.sum()
        figures[f"see_{name}"] = float((part.argmax(-1) == labels[:, number])[labels[:, 0] > 0].float().mean())
    return loss, {"dense_loss": float(loss.detach()), **figures}


def _answer_loss(logits: Tensor, data: SceneBatch) -> tuple[Tensor, dict[str, float]]:
    """Loss of [B, Q, WORDS, V] logits on the answer word and the end; accuracies are those of the answer word."""
    loss = cross_entropy(logits.flatten(0, 2), data.targets.flatten(), ignore_index=NO_TARGET)
    right = (logits.argmax(-1) == data.targets).gather(2, data.last.unsqueeze(2)).squeeze(2)
    by_kind = {kind: right[data.kinds == number] for number, kind in enumerate(KINDS)}
    return loss, {"answer_loss": float(loss.detach())} | {
        kind: float(hits.float().mean()) for kind, hits in by_kind.items() if len(hits)
    }


def _evidence_loss(attention: Tensor, evidence: Tensor) -> tuple[Tensor, dict[str, float]]:
    """-log of the attention [B, Q, heads, N] that falls on the evidence [B, Q, N], over the questions that have any."""
    mass = (attention * evidence.unsqueeze(2)).sum(-1)[evidence.any(-1)]
    return -(mass + 1e-4).log().mean(), {"evidence_mass": float(mass.detach().mean())}


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
    out: Path, seed: int, recipe: Recipe, student: _Student, optimizer: torch.optim.Optimizer, step: int, seconds: float
) -> None:
    state = {"seed": seed, "sizes": asdict(recipe.sizes), "step": step, "seconds": seconds}
    temporary = out / "checkpoint.tmp"
    torch.save({**state, "student": student.state_dict(), "optimizer": optimizer.state_dict()}, temporary)
    os.replace(temporary, out / "checkpoint.pt")


def _load(out: Path, seed: int, recipe: Recipe, student: _Student, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    """Step and seconds of the checkpoint, whose state goes into `student` and `optimizer`."""
    state = torch.load(out / "checkpoint.pt", weights_only=True)
    for name, here in (("seed", seed), ("sizes", asdict(recipe.sizes))):
        if state[name] != here:
            raise ValueError(
                f"{out} holds a run with {name} {state[name]}, not {here}: choose another folder, or resume=False to start over"
            )
    student.load_state_dict(state["student"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"]), float(state["seconds"])


def _note_recipe(path: Path, seed: int, recipe: Recipe, step: int) -> None:
    """Write the settings in force; those that a continued run began with stay under "before", with the step they ended at."""
    settings = {"seed": seed, **asdict(recipe)}
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
        return " ".join(
            f"{name} {row[name]:.2f}" for name in ("loss", "see_shape", "see_digit", *KINDS, "evidence_mass") if name in row
        )

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
