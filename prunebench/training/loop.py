"""The loop: a method's weights learn on a frozen model; interrupted anywhere, it goes on from its
last checkpoint.
"""

from __future__ import annotations

import io
import json
import math
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunebench.engine.lora import tuned
from prunebench.learning.checkpoint import Row, Run, State, open_run
from prunebench.learning.loop import Course, learn, require_number, update
from prunebench.learning.schedule import TrainSchedule
from prunebench.models import Loaded
from prunebench.trained import Example, Trained
from prunebench.training.data import Lesson, TrainingData
from prunebench.training.examples import clip_of, examples
from prunebench.training.origin import method_identity, run_identity
from prunebench.training.student import Student, blamed, make_student

HELD_OUT, CURVES, WEIGHTS = "held_out.json", "curves.png", "weights"
"""What a run folder holds in the end, beside its checkpoint and log."""

WAY_OUT = "choose another folder (out=)"

Progress = Callable[[int, int, dict[str, float]], None]
"""Called with step, all steps and the latest figures."""


def train(
    pruner: Trained,
    loaded: Loaded,
    data: TrainingData,
    out: Path,
    plan: TrainSchedule,
    *,
    sizes: dict[str, Any] | None = None,
    start: Path | None = None,
    log_every: int = 10,
    checkpoint_seconds: float = 60.0,
    progress: Progress = lambda step, steps, figures: None,
) -> Path:
    """Train the method's module for the model and write `out/weights`, a folder that `weights=`
    takes; returns it.

    `sizes` changes the module's from the method's own choice, `start` holds weights to begin with.
    The run folder also holds `checkpoint.pt`, `log.csv`, `curves.png` and `held_out.json`. A run
    that was interrupted goes on from its checkpoint, and ends with the very weights of one that was
    not.

    Raises RunError, before anything is written, where `out` holds another run, is in use or cannot
    be written, where its checkpoint is damaged, and for sizes or a start that cannot be; and at the
    first loss, gradient or weight that is no number, with the last good checkpoint and weights as
    they were.
    """
    student = make_student(pruner, loaded, plan.seed, sizes, start)
    loaded.model.requires_grad_(False)
    identity = run_identity(loaded, data, plan, _about(student, loaded))
    with open_run(
        out, identity, writes=(HELD_OUT, CURVES), folders=(WEIGHTS,), way_out=WAY_OUT
    ) as run:
        begin = run.resume(plan.steps)
        course = _course(student, loaded, data, plan)

        def report(row: Row) -> None:
            figures = {
                name: value
                for name, value in row.items()
                if name not in ("step", "seconds", "rate")
            }
            progress(int(row["step"]), plan.steps, figures)

        with tuned(loaded.model, student.pruner.reads.lora):
            state = learn(
                run,
                course,
                begin,
                log_every=log_every,
                checkpoint_seconds=checkpoint_seconds,
                report=report,
            )
            ready = replace(student.pruner, module=student.module.eval())
            with blamed(student.name, "the evaluation on held-out lessons", type(pruner)):
                figures = evaluate(ready, loaded, data.held_out(plan.held_out), plan.batch)
        require_number(figures.get("loss", 0.0), "the loss on held-out lessons", plan.steps - 1)
        return _finish(run, student, state, figures)


@torch.no_grad()
def evaluate(
    pruner: Trained, loaded: Loaded, lessons: Iterable[Lesson], batch: int
) -> dict[str, float]:
    """Every figure of the method's loss, averaged over the lessons; by complexity, too, where they
    have one.
    """
    values: dict[str, list[float]] = defaultdict(list)
    count, rest = 0, iter(lessons)
    while part := list(islice(rest, batch)):
        count += len(part)
        for same in _one_shape(part):
            for lesson, example in zip(same, examples(loaded, pruner, same), strict=True):
                loss, figures = pruner.loss(example)
                for name, value in {"loss": float(loss), **figures}.items():
                    values[name].append(value)
                    if lesson.complexity is not None and name != "loss":
                        values[f"{name}_complexity_{lesson.complexity}"].append(value)
    return {
        "lessons": count,
        **{name: round(sum(parts) / len(parts), 4) for name, parts in sorted(values.items())},
    }


def _about(student: Student, loaded: Loaded) -> dict[str, Any]:
    """What makes the run this run, of the method's."""
    method = method_identity(replace(student.pruner, module=None), clip_of(loaded, student.pruner))
    return {**method, "start": student.origin, "sizes": student.sizes}


def _course(student: Student, loaded: Loaded, data: TrainingData, plan: TrainSchedule) -> Course:
    """What the run repeats."""
    module = student.module
    optimizer = torch.optim.AdamW(module.parameters(), lr=plan.learning_rate, weight_decay=0.0)

    def weights() -> dict[str, Tensor]:
        return {
            name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)
        }

    def step(number: int) -> dict[str, float]:
        torch.manual_seed(plan.seed * 1_000_003 + number)  # dropout is the step's own
        lessons = data.batch(number, plan.batch)
        with blamed(student.name, f"step {number + 1} on {lessons[0].name}", type(student.pruner)):
            return _step(student.pruner, loaded, lessons, optimizer, plan, number)

    return Course(plan.steps, weights, optimizer, plan.rate, step)


def _step(
    pruner: Trained,
    loaded: Loaded,
    lessons: list[Lesson],
    optimizer: torch.optim.Optimizer,
    plan: TrainSchedule,
    number: int,
) -> dict[str, float]:
    """One update over the lessons; figures are averages over them."""
    optimizer.zero_grad(set_to_none=True)
    figures: dict[str, float] = defaultdict(float)
    for same in _one_shape(lessons):
        losses = [pruner.loss(example) for example in examples(loaded, pruner, same)]
        for lesson, (loss, _) in zip(same, losses, strict=True):
            require_number(float(loss.detach()), f"the loss on {lesson.name}", number, optimizer)
        total = sum((loss for loss, _ in losses), torch.zeros(()))
        total.div(len(lessons)).backward()  # type: ignore[no-untyped-call]
        for loss, others in losses:
            for name, value in {"loss": float(loss.detach()), **others}.items():
                figures[name] += value / len(lessons)
    assert pruner.module is not None
    update(optimizer, list(pruner.module.parameters()), number, clip=plan.clip)
    return dict(figures)


def _finish(run: Run, student: Student, state: State, figures: dict[str, float]) -> Path:
    """Write what a finished run leaves: held-out figures, curves, the log, and the weights in the
    place of earlier ones.
    """
    plain = {name: value if math.isfinite(value) else None for name, value in figures.items()}
    run.log.rewrite()
    run.write(HELD_OUT, f"{json.dumps(plain, indent=2)}\n".encode())
    run.write(CURVES, _curves(run.log.rows))
    about = {"trained": {**run.identity, "seconds": round(state.seconds), "held_out": plain}}
    method = type(student.pruner)
    with run.replaced(WEIGHTS) as folder:
        with blamed(student.name, "writing its weights", method):
            method.write(folder, student.sizes, student.module.cpu().eval(), about)
        if student.pruner.reads.lora is not None:
            shutil.copytree(student.pruner.reads.lora, folder / "adapter")
    return run.folder / WEIGHTS


def _one_shape(lessons: Sequence[Lesson]) -> list[list[Lesson]]:
    """Lessons whose images have one size go through the model together."""
    groups: dict[tuple[int, int], list[Lesson]] = {}
    for lesson in lessons:
        groups.setdefault(lesson.image.size, []).append(lesson)
    return list(groups.values())


def _curves(rows: Sequence[Row]) -> bytes:
    """A panel a figure, over the steps, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import pandas as pd
    import seaborn as sns

    table = (
        pd.DataFrame(list(rows)).drop(columns=["seconds", "rate"]).melt("step", var_name="figure")
    )
    sns.set_theme(style="whitegrid", context="paper")
    grid = sns.relplot(
        table,
        x="step",
        y="value",
        col="figure",
        col_wrap=3,
        kind="line",
        height=2.2,
        aspect=1.4,
        facet_kws={"sharey": False},
    )
    grid.set_titles("{col_name}").set_axis_labels("step", "")
    buffer = io.BytesIO()
    grid.savefig(buffer, format="png", dpi=120)
    plt.close(grid.figure)
    return buffer.getvalue()


__all__ = ["Example", "TrainSchedule", "evaluate", "train"]
