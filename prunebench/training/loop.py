"""The loop: a method's weights learn on a frozen model; interrupted anywhere, it goes on from its
last checkpoint.
"""

from __future__ import annotations

import io
import json
import math
import shutil
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunebench.engine.lora import tuned
from prunebench.learning.checkpoint import State
from prunebench.learning.log import Row
from prunebench.learning.loop import (
    Course,
    Figures,
    Pace,
    Progress,
    learn,
    no_progress,
    require_number,
    update,
)
from prunebench.learning.run import Run, open_run
from prunebench.learning.schedule import TrainSchedule
from prunebench.models import Loaded
from prunebench.trained import Example, Trained
from prunebench.training.blame import blamed
from prunebench.training.examples import clip_of, examples
from prunebench.training.lesson import Lesson, TrainingData
from prunebench.training.origin import method_identity, run_identity
from prunebench.training.student import Start, Student, make_student

HELD_OUT, CURVES, WEIGHTS, LORA = "held_out.json", "curves.png", "weights", "lora"
"""What a run folder holds in the end, beside its checkpoint and log; LORA is the adapter that the
model wore, beside the weights.
"""

WAY_OUT = "choose another folder (out=)"

PACE = Pace()


def train(
    pruner: Trained,
    loaded: Loaded,
    data: TrainingData,
    out: Path,
    schedule: TrainSchedule,
    *,
    start: Start | None = None,
    pace: Pace = PACE,
    progress: Progress = no_progress,
) -> Path:
    """Train the method's module for the model and write `out/weights`, a folder that `weights=`
    takes; returns it.

    The run folder also holds `checkpoint.pt`, `log.csv`, `curves.png` and `held_out.json`. A run
    that was interrupted goes on from its checkpoint, and ends with the very weights of one that was
    not.

    Raises RunError, before anything is written, where `out` holds another run, is in use or cannot
    be written, where its checkpoint is damaged, and for sizes or a start that cannot be; and at the
    first loss, gradient or weight that is no number, with the last good checkpoint and weights as
    they were.
    """
    student = make_student(pruner, loaded, schedule.seed, start or Start())
    loaded.model.requires_grad_(False)
    identity = run_identity(loaded, data, schedule, _about(student, loaded))
    with open_run(
        out, identity, writes=(HELD_OUT, CURVES), folders=(WEIGHTS,), way_out=WAY_OUT
    ) as run:
        begin = run.resume(schedule.steps)
        course = _course(student, loaded, data, schedule)
        with tuned(loaded.model, student.pruner.reads.lora):
            state = learn(run, course, begin, pace, progress)
            ready = replace(student.pruner, module=student.module.eval())
            with blamed(student.name, "the evaluation on held-out lessons", type(pruner)):
                lessons = data.held_out(schedule.held_out)
                figures = evaluate(ready, loaded, lessons, schedule.batch)
        require_number(figures.get("loss", 0.0), "the loss on held-out lessons", schedule.steps - 1)
        return _finish(run, student, state, figures)


@torch.no_grad()
def evaluate(pruner: Trained, loaded: Loaded, lessons: Iterable[Lesson], batch: int) -> Figures:
    """Every figure of the method's loss, averaged over the lessons; by complexity, too, where they
    have one.
    """
    values: dict[str, list[float]] = defaultdict(list)
    count = 0
    rest = iter(lessons)
    while part := list(islice(rest, batch)):
        count += len(part)
        for group in _one_shape(part):
            for lesson, example in zip(group, examples(loaded, pruner, group), strict=True):
                loss, figures = pruner.loss(example)
                for name, value in {"loss": float(loss), **figures}.items():
                    values[name].append(value)
                    if lesson.complexity is not None and name != "loss":
                        values[f"{name}_complexity_{lesson.complexity}"].append(value)
    means: Figures = {"lessons": count}
    for name in sorted(values):
        mean = sum(values[name]) / len(values[name])
        means[name] = round(mean, 4)
    return means


def _about(student: Student, loaded: Loaded) -> dict[str, Any]:
    """What makes the run this run, of the method's."""
    method = method_identity(student.pruner, clip_of(loaded, student.pruner))
    return {**method, "start": student.origin, "sizes": student.sizes}


def _course(
    student: Student, loaded: Loaded, data: TrainingData, schedule: TrainSchedule
) -> Course:
    """What the run repeats."""
    module = student.module
    optimizer = torch.optim.AdamW(module.parameters(), lr=schedule.learning_rate, weight_decay=0.0)

    def weights() -> dict[str, Tensor]:
        # a module may keep in its state what is no tensor
        state = module.state_dict()
        return {name: value for name, value in state.items() if isinstance(value, Tensor)}

    def step(number: int) -> Figures:
        # a factor above the most steps there can be: no two seeds share the numbers of a step
        torch.manual_seed(schedule.seed * 1_000_003 + number)  # dropout is the step's own
        lessons = data.batch(number, schedule.batch)
        doing = f"step {number + 1} on {lessons[0].name}"
        with blamed(student.name, doing, type(student.pruner)):
            figures = _backward(student.pruner, loaded, lessons, optimizer, number)
            update(optimizer, list(module.parameters()), number, clip=schedule.clip)
        return figures

    return Course(schedule.steps, weights, optimizer, lambda number, _: schedule.rate(number), step)


def _backward(
    pruner: Trained,
    loaded: Loaded,
    lessons: list[Lesson],
    optimizer: torch.optim.Optimizer,
    number: int,
) -> Figures:
    """The gradients of a step, whose figures are averages over the lessons."""
    optimizer.zero_grad(set_to_none=True)
    figures: Figures = defaultdict(float)
    for group in _one_shape(lessons):
        total = torch.zeros(())
        for lesson, example in zip(group, examples(loaded, pruner, group), strict=True):
            loss, others = pruner.loss(example)
            value = float(loss.detach())
            require_number(value, f"the loss on {lesson.name}", number, optimizer)
            total = total + loss
            for name, figure in {"loss": value, **others}.items():
                figures[name] += figure / len(lessons)
        # by all lessons: the gradients of the groups add up to the mean over the batch
        total.div(len(lessons)).backward()
    return dict(figures)


def _finish(run: Run, student: Student, state: State, figures: Figures) -> Path:
    """Write what a finished run leaves: held-out figures, curves, the log, and the weights in the
    place of earlier ones.
    """
    plain: dict[str, float | None] = {}
    for name, value in figures.items():
        plain[name] = value if math.isfinite(value) else None
    run.log.rewrite()
    run.write(HELD_OUT, f"{json.dumps(plain, indent=2)}\n".encode())
    run.write(CURVES, _curves(run.log.rows))
    about = {"trained": {**run.identity, "seconds": round(state.seconds), "held_out": plain}}
    method = type(student.pruner)
    with run.replaced(WEIGHTS) as folder:
        with blamed(student.name, "writing its weights", method):
            method.write(folder, student.sizes, student.module.cpu().eval(), about)
        if student.pruner.reads.lora is not None:
            shutil.copytree(student.pruner.reads.lora, folder / LORA)
    return run.folder / WEIGHTS


def _one_shape(lessons: Sequence[Lesson]) -> list[list[Lesson]]:
    """Lessons whose images have one size go through the model together."""
    groups: dict[tuple[int, int], list[Lesson]] = {}
    for lesson in lessons:
        groups.setdefault(lesson.image.size, []).append(lesson)
    return list(groups.values())


def _curves(rows: Sequence[Row]) -> bytes:
    """A panel a figure, over the steps, as a PNG."""
    # late: only a run that ends draws, and these take long to import
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import pandas as pd
    import seaborn as sns

    figures = pd.DataFrame(list(rows)).drop(columns=["seconds", "rate"])
    table = figures.melt("step", var_name="figure")
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
