"""Train a miniature: what the shared loop repeats, and what a run folder holds besides."""

import json
import logging
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader, Dataset

from prunebench.border.bounds import path
from prunebench.learning.checkpoint import State, digest
from prunebench.learning.folder import RunError
from prunebench.learning.loop import (
    Course,
    Figures,
    Pace,
    Progress,
    learn,
    no_progress,
)
from prunebench.learning.run import Run, open_run
from prunebench.testbed.batches import Batch
from prunebench.testbed.learner import Objective
from prunebench.testbed.miniatures import miniature
from prunebench.testbed.options import MiniatureOptions
from prunebench.testbed.questions import KINDS
from prunebench.testbed.recipe import Recipe
from prunebench.testbed.start import EARLIER, begin_weights, keep_earlier

log = logging.getLogger(__name__)

RECIPE, MODEL = "recipe.json", "model"
"""What a run folder holds in the end, beside its checkpoint and log."""

WAY_OUT = "choose another folder, or resume=False to start over"

PACE = Pace(log_every=20, checkpoint_seconds=180.0)

HEADLINES = ("loss", "see_shape", "see_ones", "match", *KINDS, "evidence_mass")
"""The figures, of all that the log has, that say how far a run is."""


@dataclass(frozen=True)
class Machine:
    """Where a run computes, and how many processes make its batches."""

    device: str = "cpu"
    workers: int = 0


def train_miniature(
    out: Path,
    options: MiniatureOptions | None = None,
    *,
    recipe: Recipe | None = None,
    pace: Pace = PACE,
    progress: Progress = no_progress,
) -> Path:
    """Train a miniature in the run folder `out`; returns `out/model`, an ordinary `from_pretrained`
    folder.

    A start that is a miniature of the same kind is trained further. `recipe` is the options' own,
    left out. The run folder also holds `checkpoint.pt`, `log.csv` and `recipe.json`. A run that was
    interrupted goes on from its last checkpoint, step for step as if it had not been
    (`resume=False` starts over). One whose recipe changed goes on with the new one, and its model
    card says until which step the old one held. The card's figures are over `held_out` questions.

    Raises RunError, before anything is written, where `out` holds a run of another model, seed,
    size or start, is in use or cannot be written, where its checkpoint is damaged, and for a start
    that cannot be; and at the first loss, gradient or weight that is no number, with the last good
    checkpoint as it was.
    """
    options = options or MiniatureOptions()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise RunError("device is cuda, but torch sees no GPU here; leave it out, or write cpu")
    recipe = recipe or options.recipe
    kind = miniature(options.model)
    if recipe.steps < 1:
        raise RunError(
            f"the recipe of {options.model} has {recipe.steps} steps; there must be at least one"
        )
    start = None if options.start is None else path("start", options.start)
    model = kind.build(recipe.sizes, options.seed)
    further = begin_weights(kind, model, start)
    identity = {
        "model": options.model,
        "seed": options.seed,
        "sizes": asdict(recipe.sizes),
        "start": digest(dict(model.state_dict())),
    }
    writes = RECIPE, *EARLIER.values()
    with open_run(out, identity, writes=writes, folders=(MODEL,), way_out=WAY_OUT) as run:
        begin = _begin(run, recipe.steps, options.resume)
        plain = {"model": options.model, "seed": options.seed, "device": _device(options.device)}
        plain |= {"further": further, **asdict(recipe)}
        if start is not None and further and begin is None:
            keep_earlier(run, start)
        settings = _settings(plain, begin, recipe.steps)
        run.write(RECIPE, f"{json.dumps(settings, indent=2)}\n".encode())
        machine = Machine(options.device, options.workers)
        objective = kind.objective(model, recipe, options.seed)
        begin_step = 0 if begin is None else begin.step
        course = _course(objective, recipe, settings, begin_step, machine)
        if options.minutes is not None:
            pace = replace(pace, seconds=60 * options.minutes)

        def report(step: int, steps: int, figures: Figures) -> None:
            headlines = [name for name in HEADLINES if name in figures]
            progress(step, steps, {name: figures[name] for name in headlines})

        state = learn(run, course, begin, pace, report)
        from prunebench.testbed.export import export

        run.log.rewrite()
        with run.replaced(MODEL) as folder:
            export(out, state, folder, held_out=options.held_out, device=options.device)
        return out / MODEL


def _device(name: str) -> str:
    """A device as a card names it."""
    return "a CPU" if name == "cpu" else torch.cuda.get_device_name()


def _begin(run: Run, steps: int, resume: bool) -> State | None:
    """Where the run goes on, None where it begins."""
    if not resume:
        run.start_over()
        return None
    state = run.resume(steps)
    if state is not None:
        log.info("resumed at step %d of %d", state.step, steps)
    return state


def _course(
    objective: Objective, recipe: Recipe, settings: dict[str, Any], begin: int, machine: Machine
) -> Course:
    """What the run repeats; the checkpoint keeps the settings in force."""
    # before anything is put on a GPU, which processes that are forked must not know
    batches = iter(_batches(objective, begin, recipe.steps, machine))
    network = objective.network.to(machine.device)
    trainable = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(
        trainable,
        lr=recipe.learning_rate,
        betas=(0.9, 0.98),
        weight_decay=recipe.weight_decay,
        fused=True,
    )
    low = machine.device != "cpu" or recipe.precision == "bfloat16"

    def kernels() -> AbstractContextManager[None]:
        # of rows as short as these the fused kernel takes twice as long on a CPU
        return sdpa_kernel(SDPBackend.MATH) if machine.device == "cpu" else nullcontext()

    def weights() -> dict[str, Tensor]:
        return dict(network.state_dict())

    def step(number: int) -> dict[str, Tensor]:
        data = next(batches).to(machine.device)
        with kernels(), torch.autocast(machine.device, dtype=torch.bfloat16, enabled=low):
            loss, figures = objective.loss(data, number)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        return {"loss": loss.detach(), "norm": norm, **figures}

    return Course(
        recipe.steps,
        weights,
        optimizer,
        recipe.rate,
        step,
        objective.check,
        marks=tuple(accumulate(recipe.stages)),
        facts={"recipe": _as_stored(settings)},
    )


@dataclass(frozen=True)
class _Steps(Dataset[Batch]):
    """The batches of a run by step."""

    batch: Callable[[int], Batch]
    steps: int

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Batch:
        return self.batch(step)


def _batches(objective: Objective, begin: int, steps: int, machine: Machine) -> Iterable[Batch]:
    """The batches from a step on, made ahead of it by `workers` processes."""
    return DataLoader(
        _Steps(objective.batch, steps),
        batch_size=None,
        sampler=range(begin, steps),
        num_workers=machine.workers,
        prefetch_factor=3 if machine.workers else None,
        pin_memory=machine.device != "cpu",
        worker_init_fn=_one_thread,
    )


def _one_thread(_: int) -> None:
    """Threads of many processes would stand in each other's way."""
    torch.set_num_threads(1)


def _settings(settings: dict[str, Any], state: State | None, steps: int) -> dict[str, Any]:
    """The settings in force; under "before" those that a run that goes on had until then, each with
    the step they ended at.
    """
    if state is None:
        return {**settings, "before": []}
    last: dict[str, Any] = state.facts["recipe"]
    if state.step == steps:  # nothing is left to learn with others
        return last
    now = _as_stored(settings)
    earlier = {name: value for name, value in last.items() if name != "before"}
    changes = {name: value for name, value in earlier.items() if now.get(name) != value}
    before = last["before"]
    if changes:
        before = [*before, {"until_step": state.step, **changes}]
    return {**settings, "before": before}


def _as_stored(settings: dict[str, Any]) -> Any:
    """Settings as recipe.json gives them back: a tuple is a list there."""
    return json.loads(json.dumps(settings))
