"""Learning: the loop that every training run goes through, which stops at the first value that is
no number.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from prunebench.learning.checkpoint import Row, Run, RunError, State

Report = Callable[[Row], None]
"""Called with every line of the log: step, seconds, rate and the figures since the last one."""


@dataclass
class Course:
    """What a run repeats.

    `weights` gives what it learns, by name, as the very tensors that learn; `step` does one update,
    of the number it is called with, and gives figures by name; `rate` is the learning rate of a
    step. `facts` are plain data to keep in the checkpoint.
    """

    steps: int
    weights: Callable[[], Mapping[str, Tensor]]
    optimizer: torch.optim.Optimizer
    rate: Callable[[int], float]
    step: Callable[[int], Mapping[str, float]]
    facts: dict[str, Any] = field(default_factory=dict)


def learn(
    run: Run,
    course: Course,
    begin: State | None,
    *,
    log_every: int,
    checkpoint_seconds: float,
    report: Report,
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
    totals = defaultdict[str, list[float]](
        list, {name: list(values) for name, values in state.totals.items()}
    )
    began = saved = time.monotonic()
    for step in range(state.step + 1, course.steps + 1):
        for group in course.optimizer.param_groups:
            group["lr"] = course.rate(step - 1)
        for name, value in course.step(step - 1).items():
            totals[name].append(float(value))
        now, last = time.monotonic(), step == course.steps
        seconds = state.seconds + now - began
        if step % log_every == 0 or last:
            row: Row = {"step": step, "seconds": round(seconds, 1), "rate": course.rate(step - 1)}
            row |= {name: sum(values) / len(values) for name, values in totals.items()}
            totals.clear()
            run.log.add(row)
            report(row)
        if last or now - saved >= checkpoint_seconds:
            latest = _state(run, course, step, seconds, totals)
            run.save(latest)
            saved = now
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
    learnt = [weight for weight in weights if weight.grad is not None]
    # an infinite bound leaves every gradient as it is, and still says whether all are numbers
    norm = nn.utils.clip_grad_norm_(learnt, clip)
    require_number(float(norm), "the gradient's norm", step, optimizer)
    try:
        optimizer.step()
    except (RuntimeError, OverflowError) as error:  # a factor beyond the range of the weights' type
        if "overflow" not in str(error):
            raise
        require_number(float("inf"), "the update", step, optimizer)
    finite = [weight.detach().isfinite().all() for weight in learnt]
    if finite and not bool(torch.stack(finite).all()):
        require_number(float("nan"), "a weight", step, optimizer)


def require_number(
    value: float, name: str, step: int, optimizer: torch.optim.Optimizer | None = None
) -> float:
    """The value; raises RunError naming the step and the figure where it is NaN or infinite."""
    if abs(value) < float("inf"):
        return value
    rate = (
        "" if optimizer is None else f" at a learning rate of {optimizer.param_groups[0]['lr']:g}"
    )
    raise RunError(
        f"step {step + 1}: {name} is {value}{rate}; the run stops and nothing of this step is kept: "
        "choose a lower learning_rate or other data, in another folder"
    )


def _take_up(course: Course, state: State, run: Run) -> None:
    """Put a checkpoint's weights and the optimizer's state in place; raises RunError, before any
    is, where they do not fit.
    """
    weights = course.weights()
    shapes = {name: list(weight.shape) for name, weight in weights.items()}
    stored = {name: list(weight.shape) for name, weight in state.weights.items()}
    for name in dict.fromkeys([*shapes, *stored]):
        if shapes.get(name) != stored.get(name):
            differ = f"{name} of shape {stored.get(name)}, not {shapes.get(name)}"
            raise RunError(
                f"the checkpoint in {run.folder} holds weights {differ}: remove it, or {run.way_out}"
            )
    try:
        course.optimizer.load_state_dict(state.optimizer)
    except (ValueError, KeyError, RuntimeError) as error:
        raise RunError(
            f"the optimizer's state in {run.folder} cannot be taken up ({error}): {run.way_out}"
        ) from error
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(state.weights[name])


def _state(
    run: Run, course: Course, step: int, seconds: float, totals: Mapping[str, list[float]]
) -> State:
    weights = {name: weight.detach() for name, weight in course.weights().items()}
    optimizer: dict[str, Any] = course.optimizer.state_dict()
    kept = {name: list(values) for name, values in totals.items()}
    return State(weights, optimizer, step, seconds, list(run.log.rows), kept, dict(course.facts))
