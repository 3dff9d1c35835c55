"""Loop: what every training run goes through, which stops at the first value that is no number."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from prunebench.learning.checkpoint import State
from prunebench.learning.folder import RunError
from prunebench.learning.log import Row
from prunebench.learning.run import Run

Figures = dict[str, float]
"""Losses and accuracies by name."""

Progress = Callable[[int, int, Figures], None]
"""Called with a step, all steps and the latest figures."""


def no_progress(step: int, steps: int, figures: Figures) -> None:
    """For runs that nobody watches."""


def nothing_to_check(step: int, figures: Figures) -> None:
    """For runs that go on whatever their figures."""


@dataclass
class Course:
    """What a run repeats.

    `weights` gives what it learns, by name, as the very tensors that learn; `step` does one update,
    of the number it is called with, and gives figures by name: NaN where there is none, and tensors
    where asking for the number would wait for a GPU. `rate` is the learning rate of a step with
    that share of the run's time left. `check` is called with each line of the log, of which there
    is one at the `marks`, too, and raises RunError where going on is of no use. `facts` are plain
    data to keep in the checkpoint.
    """

    steps: int
    weights: Callable[[], Mapping[str, Tensor]]
    optimizer: torch.optim.Optimizer
    rate: Callable[[int, float], float]
    step: Callable[[int], Mapping[str, float | Tensor]]
    check: Callable[[int, Figures], None] = nothing_to_check
    marks: tuple[int, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Pace:
    """How often a run writes a line of its log, says how far it is, and saves.

    The log has a line every `log_every` steps, of which those that `report_every` divides are
    reported. A checkpoint is written when the last one is `checkpoint_seconds` old. After `seconds`
    in all the run ends, wherever it is; its learning rate falls to its end by then.
    """

    log_every: int = 10
    report_every: int = 1
    checkpoint_seconds: float = 60.0
    seconds: float = math.inf


def learn(
    run: Run, course: Course, begin: State | None, pace: Pace, progress: Progress = no_progress
) -> State:
    """All steps that are left after `begin`, which `run.resume` gave; returns the run's state after
    its last step.

    Raises RunError at the first loss, gradient or weight that is no number; the checkpoint before
    it stays.
    """
    state = begin or _state(run, course, 0, 0.0, {})
    if begin is not None:
        _take_up(course, begin, run)
    run.log.restore(state.log)
    totals = defaultdict[str, list[float | Tensor]](list)
    for name, values in state.totals.items():
        totals[name] = list(values)
    start = saved_at = time.monotonic()
    seconds = state.seconds
    # from 1, as logs and checkpoints count; `course` counts from 0
    for step in range(state.step + 1, course.steps + 1):
        rate = course.rate(step - 1, max(0.0, 1 - seconds / pace.seconds))
        for group in course.optimizer.param_groups:
            group["lr"] = rate
        for name, value in course.step(step - 1).items():
            totals[name].append(value)
        now = time.monotonic()
        seconds = state.seconds + now - start
        last = step == course.steps or seconds >= pace.seconds
        saving = last or now - saved_at >= pace.checkpoint_seconds
        logged = step % pace.log_every == 0 or last or step in course.marks
        if logged or saving:
            # what is no number must be known before it is kept
            totals.update(_numbers(totals, step, course.optimizer))
        if logged:
            figures = {name: _mean(values) for name, values in totals.items()}
            totals.clear()
            row: Row = {"step": step, "seconds": round(seconds, 1), "rate": rate}
            run.log.add(row | figures)
            if step % pace.report_every == 0 or last:
                progress(step, course.steps, figures)
            course.check(step, figures)
        if saving:
            latest = _state(run, course, step, seconds, totals)
            run.save(latest)
            saved_at = now
            if last:
                return latest
    return state


def update(
    optimizer: torch.optim.Optimizer,
    weights: Sequence[nn.Parameter],
    step: int,
    *,
    clip: float = float("inf"),
) -> None:
    """One update along the gradients that `weights` have, their norm `clip` at most.

    Raises RunError where a gradient or an updated weight is no number.
    """
    moving = [weight for weight in weights if weight.grad is not None]
    # an infinite bound leaves every gradient as it is, and still says whether all are numbers
    norm = nn.utils.clip_grad_norm_(moving, clip)
    require_number(float(norm), "the gradient's norm", step, optimizer)
    try:
        optimizer.step()
    except (RuntimeError, OverflowError) as error:  # a factor beyond the range of the weights' type
        if "overflow" not in str(error):
            raise
        require_number(float("inf"), "the update", step, optimizer)
    # finite gradients may still carry a weight out of its range; all are asked at once, as every
    # bool() waits for the GPU
    finite = [weight.detach().isfinite().all() for weight in moving]
    if finite and not bool(torch.stack(finite).all()):
        require_number(float("nan"), "a weight", step, optimizer)


def require_number(
    value: float, name: str, step: int, optimizer: torch.optim.Optimizer | None = None
) -> float:
    """The value; raises RunError naming the step and the figure where it is NaN or infinite."""
    # False for NaN, too
    if abs(value) < float("inf"):
        return value
    rate = ""
    if optimizer is not None:
        rate = f" at a learning rate of {optimizer.param_groups[0]['lr']:g}"
    raise RunError(
        f"step {step + 1}: {name} is {value}{rate}; the run stops and nothing of this step is "
        "kept: choose a lower learning_rate or other data, in another folder"
    )


def _numbers(
    totals: Mapping[str, list[float | Tensor]], step: int, optimizer: torch.optim.Optimizer
) -> dict[str, list[float | Tensor]]:
    """The figures as numbers, asked for all at once: every single one would wait for the GPU.

    Raises RunError where the loss or the gradient's norm is none.
    """
    numbers: dict[str, list[float | Tensor]] = {}
    for name, values in totals.items():
        tensors = [value for value in values if isinstance(value, Tensor)]
        # those of steps before the last checkpoint come first, and are plain already
        plain: list[float | Tensor]
        plain = [value for value in values if not isinstance(value, Tensor)]
        if tensors:
            plain += torch.stack([value.detach().float() for value in tensors]).tolist()
        numbers[name] = plain
    for name, what in (("loss", "the loss"), ("norm", "the gradient's norm")):
        for value in numbers.get(name, []):
            require_number(float(value), what, step - 1, optimizer)
    return numbers


def _mean(values: Sequence[float | Tensor]) -> float:
    """The mean of the values that are numbers, NaN where none is."""
    numbers = [float(value) for value in values if not math.isnan(value)]
    return sum(numbers) / len(numbers) if numbers else math.nan


def _take_up(course: Course, state: State, run: Run) -> None:
    """Put a checkpoint's weights and the optimizer's state in place; raises RunError, before any
    is, where they do not fit.
    """
    weights = course.weights()
    shapes = {name: list(weight.shape) for name, weight in weights.items()}
    saved_shapes = {name: list(weight.shape) for name, weight in state.weights.items()}
    for name in dict.fromkeys([*shapes, *saved_shapes]):
        shape, saved_shape = shapes.get(name), saved_shapes.get(name)
        if shape != saved_shape:
            holds = f"holds weights {name} of shape {saved_shape}, not {shape}"
            raise RunError(f"the checkpoint in {run.folder} {holds}: remove it, or {run.way_out}")
    try:
        course.optimizer.load_state_dict(state.optimizer)
    except (ValueError, KeyError, RuntimeError) as error:
        what = f"the optimizer's state in {run.folder} cannot be taken up ({error})"
        raise RunError(f"{what}: {run.way_out}") from error
    with torch.no_grad():
        for name, weight in weights.items():
            # into the tensors that are there: the optimizer holds these very ones
            weight.copy_(state.weights[name])


def _state(
    run: Run,
    course: Course,
    step: int,
    seconds: float,
    totals: Mapping[str, Sequence[float | Tensor]],
) -> State:
    """Where the run stands after a step."""
    return State(
        weights={name: weight.detach() for name, weight in course.weights().items()},
        optimizer=course.optimizer.state_dict(),
        step=step,
        seconds=seconds,
        log=list(run.log.rows),
        totals={name: list(map(float, values)) for name, values in totals.items()},
        facts=dict(course.facts),
    )
