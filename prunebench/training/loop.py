"""The loop: a method's weights learn on a frozen model; interrupted anywhere, it goes on from its last checkpoint."""

from __future__ import annotations

import csv
import json
import logging
import math
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prunebench.engine.lora import tuned
from prunebench.models import Loaded
from prunebench.registry import card, settings
from prunebench.trained import Example, Trained, seeded
from prunebench.training.data import DataError, Lesson, TrainingData
from prunebench.training.examples import examples

log = logging.getLogger(__name__)

Progress = Callable[[int, int, dict[str, float]], None]
"""Called with step, all steps and the latest figures."""


@dataclass(frozen=True)
class Plan:
    """How long and how fast: AdamW without weight decay, a linear warm-up, then a cosine, as GlimpsePrune's authors train."""

    steps: int = 1250
    batch: int = 16
    learning_rate: float = 1e-4
    warmup: float = 0.1  # share of the steps
    clip: float = 1.0  # gradient norm
    seed: int = 0
    held_out: int = 200

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        warm = max(1, round(self.warmup * self.steps))
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, self.steps - warm)))


def train(
    pruner: Trained,
    loaded: Loaded,
    data: TrainingData,
    out: Path,
    plan: Plan,
    *,
    sizes: dict[str, Any] | None = None,
    start: Path | None = None,
    log_every: int = 10,
    checkpoint_seconds: float = 60.0,
    progress: Progress = lambda step, steps, figures: None,
) -> Path:
    """Train the method's module for the model and write `out/weights`, a folder that `weights=` takes; returns it.

    `sizes` changes the module's from the method's own choice, `start` holds weights to begin with. The run folder also
    holds `checkpoint.pt`, `log.csv`, `curves.png` and `held_out.json`. Raises DataError where `out` holds another run.
    """
    out.mkdir(parents=True, exist_ok=True)
    method, facts = type(pruner), loaded.adapter.facts(loaded.model)
    made = {**method.sizes(facts), **(sizes or {})}
    module = seeded(method, made, plan.seed) if start is None else method.read(start)[1]
    student = replace(pruner.adapted(made), module=module.to(loaded.model.device).train().requires_grad_(True))
    optimizer = torch.optim.AdamW(module.parameters(), lr=plan.learning_rate, weight_decay=0.0)
    loaded.model.requires_grad_(False)
    identity = {
        "method": card(method).name,
        "model": loaded.id,
        "sizes": made,
        "plan": asdict(plan),
        "settings": settings(pruner),
    }
    identity = json.loads(json.dumps(identity))
    with tuned(loaded.model, student.adapter):
        seconds = _learn(student, loaded, data, out, plan, optimizer, identity, log_every, checkpoint_seconds, progress)
        ready = replace(student, module=module.eval())
        figures = evaluate(ready, loaded, list(data.held_out(plan.held_out)), plan.batch)
    (out / "held_out.json").write_text(json.dumps(figures, indent=2) + "\n")
    _curves(out / "log.csv", out / "curves.png")
    folder = out / "weights"
    folder.mkdir(exist_ok=True)
    told = {"trained": {**_without_paths(identity), "seconds": round(seconds), "held_out": figures}}
    method.write(folder, made, module.cpu().eval(), told)
    if student.adapter is not None:
        shutil.copytree(student.adapter, folder / "adapter", dirs_exist_ok=True)
    return folder


def _without_paths(identity: dict[str, Any]) -> dict[str, Any]:
    """The same for others' machines: folders by their names."""
    plain = {
        name: Path(value).name if isinstance(value, str) and Path(value).is_dir() and value else value
        for name, value in identity["settings"].items()
    }
    return {**identity, "settings": plain}


def _learn(
    student: Trained,
    loaded: Loaded,
    data: TrainingData,
    out: Path,
    plan: Plan,
    optimizer: torch.optim.Optimizer,
    identity: dict[str, Any],
    log_every: int,
    checkpoint_seconds: float,
    progress: Progress,
) -> float:
    """All steps that are left; returns the seconds of all that were taken, those before an interruption too."""
    module = student.module
    assert module is not None
    weights, step, seconds = resume(out, identity, optimizer)
    if weights is not None:
        module.load_state_dict(weights)
    _keep_log(out / "log.csv", step)
    totals: dict[str, list[float]] = defaultdict(list)
    began, saved = time.monotonic() - seconds, time.monotonic()
    while step < plan.steps:
        for group in optimizer.param_groups:
            group["lr"] = plan.rate(step)
        torch.manual_seed(plan.seed * 1_000_003 + step)  # dropout is the step's own
        for name, value in _step(student, loaded, data.batch(step, plan.batch), optimizer, plan).items():
            totals[name].append(value)
        step += 1
        if step % log_every == 0 or step == plan.steps:
            row = {name: sum(values) / len(values) for name, values in totals.items()}
            totals.clear()
            seconds = time.monotonic() - began
            append(out / "log.csv", {"step": step, "seconds": round(seconds, 1), "rate": plan.rate(step - 1), **row})
            progress(step, plan.steps, row)
        if time.monotonic() - saved >= checkpoint_seconds or step == plan.steps:
            save(out, identity, module.state_dict(), optimizer, step, time.monotonic() - began)
            saved = time.monotonic()
    return seconds


@torch.no_grad()
def evaluate(pruner: Trained, loaded: Loaded, lessons: Sequence[Lesson], batch: int) -> dict[str, float]:
    """Every figure of the method's loss, averaged over the lessons; by complexity, too, where they have one."""
    found: dict[str, list[float]] = defaultdict(list)
    for first in range(0, len(lessons), batch):
        part = _one_shape(lessons[first : first + batch])
        for same in part:
            for lesson, example in zip(same, examples(loaded, pruner, same), strict=True):
                loss, figures = pruner.loss(example)
                for name, value in {"loss": float(loss), **figures}.items():
                    found[name].append(value)
                    if lesson.complexity is not None and name != "loss":
                        found[f"{name}_complexity_{lesson.complexity}"].append(value)
    return {"lessons": len(lessons), **{name: round(sum(values) / len(values), 4) for name, values in sorted(found.items())}}


def _step(
    student: Trained, loaded: Loaded, lessons: list[Lesson], optimizer: torch.optim.Optimizer, plan: Plan
) -> dict[str, float]:
    """One update over the lessons; figures are averages over them."""
    optimizer.zero_grad(set_to_none=True)
    figures: dict[str, float] = defaultdict(float)
    for same in _one_shape(lessons):
        losses = [student.loss(example) for example in examples(loaded, student, same)]
        sum((loss for loss, _ in losses), torch.zeros(())).div(len(lessons)).backward()  # type: ignore[no-untyped-call]
        for loss, known in losses:
            for name, value in {"loss": float(loss.detach()), **known}.items():
                figures[name] += value / len(lessons)
    assert student.module is not None
    weights = list(student.module.parameters())
    nn.utils.clip_grad_norm_([weight for weight in weights if weight.grad is not None], plan.clip)
    optimizer.step()
    return dict(figures)


def _one_shape(lessons: Sequence[Lesson]) -> list[list[Lesson]]:
    """Lessons whose images have one size go through the model together."""
    groups: dict[tuple[int, int], list[Lesson]] = {}
    for lesson in lessons:
        groups.setdefault(lesson.image.size, []).append(lesson)
    return list(groups.values())


def save(out: Path, identity: dict[str, Any], weights: dict[str, Any], optimizer: Any, step: int, seconds: float) -> None:
    """Write the run's checkpoint, whole or not at all."""
    temporary = out / "checkpoint.tmp"
    state = {"weights": weights, "optimizer": optimizer.state_dict(), "step": step, "seconds": seconds}
    torch.save({**state, "identity": identity}, temporary)
    os.replace(temporary, out / "checkpoint.pt")


def resume(out: Path, identity: dict[str, Any], optimizer: Any) -> tuple[dict[str, Any] | None, int, float]:
    """Weights, step and seconds of the run so far, None and 0 where there is none; the optimizer's state goes into it.

    Raises DataError where the checkpoint is that of another run.
    """
    path = out / "checkpoint.pt"
    if not path.exists():
        return None, 0, 0.0
    state = torch.load(path, weights_only=True)
    for name, here in identity.items():
        there = state["identity"][name]
        if there != here:
            differ = f"{name} {there}, not {here}"
            raise DataError(f"{out} holds a run with other settings ({differ}): choose another folder (out=)")
    optimizer.load_state_dict(state["optimizer"])
    return state["weights"], int(state["step"]), float(state["seconds"])


def _keep_log(path: Path, step: int) -> None:
    """Lines behind the checkpoint are written again."""
    rows = []
    if path.exists() and step:
        with path.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if int(row["step"]) <= step]
    path.unlink(missing_ok=True)
    for row in rows:
        append(path, row)


def append(path: Path, row: dict[str, Any]) -> None:
    """Add a line to a table that begins with the first one's names."""
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        if fresh:
            writer.writeheader()
        writer.writerow({name: f"{value:.5g}" if isinstance(value, float) else value for name, value in row.items()})


def _curves(log_csv: Path, path: Path) -> None:
    """A panel a figure, over the steps."""
    import matplotlib

    matplotlib.use("Agg")
    import pandas as pd
    import seaborn as sns

    table = pd.read_csv(log_csv).drop(columns=["seconds", "rate"]).melt("step", var_name="figure")
    sns.set_theme(style="whitegrid", context="paper")
    grid = sns.relplot(
        table, x="step", y="value", col="figure", col_wrap=3, kind="line", height=2.2, aspect=1.4, facet_kws={"sharey": False}
    )
    grid.set_titles("{col_name}").set_axis_labels("step", "")
    grid.savefig(path, dpi=120)


__all__ = ["Example", "Plan", "evaluate", "train"]
