"""The commands that train: `train` a method, `reinforce` a model, `testbed` the miniatures."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from prunebench.border.bounds import path
from prunebench.cli.completion import add_options, completed_by, method_names
from prunebench.cli.keys import bounded_keys
from prunebench.cli.options import ReinforceOptions, TrainOptions, schedule_of
from prunebench.cli.parser import Commands, add_command
from prunebench.run.keys import Key
from prunebench.testbed.options import MiniatureOptions

T = TypeVar("T")


def add_commands(commands: Commands) -> None:
    """Add them to the parser."""
    parser = add_command(
        commands,
        "train",
        train,
        "Train the weights of a method on a frozen model; the same command again goes on.",
        examples=("prunebench train glimpseprune steps=1000 batch=12 learning_rate=1e-3",),
        keys=train_keys,
        kept="finished steps are kept",
    )
    method = parser.add_argument("method", metavar="METHOD", help="a name, or a file of your own")
    completed_by(method, method_names)
    add_options(parser, train_keys, "options, METHOD.SETTING=value for the method's own settings")
    parser = add_command(
        commands,
        "reinforce",
        reinforce,
        "Tune a model, through an adapter, to answer from the evidence's tokens alone.",
        examples=("prunebench reinforce model=tiny-qwen2.5-vl steps=200 out=runs/tuned",),
        keys=reinforce_keys,
        kept="finished steps are kept",
    )
    add_options(parser, reinforce_keys)
    parser = add_command(
        commands,
        "testbed",
        train_testbed,
        "Make the miniature models.",
        examples=("prunebench testbed train runs/tiny model=tiny-llava-1.5",),
        keys=testbed_keys,
    )
    parser.add_argument("action", choices=("train",))
    parser.add_argument("out", type=Path, metavar="FOLDER", help="the folder of the run")
    add_options(parser, testbed_keys)


def train_keys() -> list[Key]:
    """The keys of `train`."""
    return bounded_keys(TrainOptions)


def reinforce_keys() -> list[Key]:
    """The keys of `reinforce`."""
    return bounded_keys(ReinforceOptions)


def testbed_keys() -> list[Key]:
    """The keys of `testbed train`."""
    return bounded_keys(MiniatureOptions)


def train(arguments: argparse.Namespace) -> int:
    """Train a method, print its figures on held-out lessons and where its weights lie."""
    from prunebench import models, registry
    from prunebench.cli.bars import training_bar
    from prunebench.cli.screen import quiet_libraries
    from prunebench.learning.schedule import TrainSchedule
    from prunebench.run import options
    from prunebench.run.cell import slug
    from prunebench.trained import Trained
    from prunebench.training import Start, open_data
    from prunebench.training import train as train_method

    quiet_libraries()
    name = arguments.method
    # what the method's settings begin with
    label = Path(name).stem if name.endswith(".py") else name
    run_options, settings = read_options(arguments.options, TrainOptions)
    strangers = [key for key in settings if key not in (label, name)]
    if strangers:
        near = registry.suggest(strangers[0], options.keys(TrainOptions), "")
        reason = f"{strangers[0]} is no option of train{near}"
        raise options.OptionError(f"{reason}; the method's are written {label}.KEY=value")
    pruner = registry.build(name, {**settings.get(label, {}), **settings.get(name, {})})
    if not isinstance(pruner, Trained):
        raise options.OptionError(f"{label} has no weights to train")
    data = open_data(run_options.data, run_options.seed)
    loaded = models.load(run_options.model, device=run_options.device, dtype=run_options.dtype)
    weights = path("start", run_options.start) if run_options.start else None
    out = run_options.folder(f"{label}-{slug(run_options.model)}")
    with training_bar(run_options.steps) as progress:
        folder = train_method(
            pruner,
            loaded,
            data,
            out,
            schedule_of(TrainSchedule, run_options),
            start=Start(run_options.sizes, weights),
            progress=progress,
        )
    print_result(folder)
    return 0


def reinforce(arguments: argparse.Namespace) -> int:
    """Tune a model, print its accuracy before and after and where its adapter lies."""
    from prunebench import models
    from prunebench.cli.bars import training_bar
    from prunebench.cli.screen import quiet_libraries
    from prunebench.learning.schedule import Tuning
    from prunebench.run.cell import slug
    from prunebench.training import open_data
    from prunebench.training.reinforce import reinforce as tune

    quiet_libraries()
    run_options, settings = read_options(arguments.options, ReinforceOptions)
    refuse_strangers(settings)
    data = open_data(run_options.data, run_options.seed)
    loaded = models.load(run_options.model, device=run_options.device, dtype=run_options.dtype)
    out = run_options.folder(f"reinforce-{slug(run_options.model)}")
    with training_bar(run_options.steps) as progress:
        folder = tune(loaded, data, out, schedule_of(Tuning, run_options), progress=progress)
    print_result(folder)
    return 0


def train_testbed(arguments: argparse.Namespace) -> int:
    """Train a miniature and print where it lies."""
    from prunebench.cli.bars import training_bar
    from prunebench.cli.screen import quiet_libraries
    from prunebench.testbed.train import train_miniature

    quiet_libraries()
    run_options, settings = read_options(arguments.options, MiniatureOptions)
    refuse_strangers(settings)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    out = path("FOLDER", str(arguments.out))
    with training_bar(run_options.recipe.steps) as progress:
        folder = train_miniature(out, run_options, progress=progress)
    print(folder)
    return 0


def print_result(folder: Path) -> None:
    """Print the held-out figures of a finished run and where lies what it learnt."""
    print((folder.parent / "held_out.json").read_text().strip())
    print(folder)


def read_options(texts: Sequence[str], kind: type[T]) -> tuple[T, dict[str, dict[str, Any]]]:
    """key=value texts as options of a kind, and what is left: settings of methods, by label."""
    from prunebench.run import options

    content: dict[str, Any] = {}
    settings = options.override(content, texts, kind)
    try:
        return options.structured(kind, content), settings
    # a list where a mapping is due, or a number that is no float
    except (TypeError, OverflowError) as error:
        raise options.OptionError(f"{', '.join(content)}: {error}") from None


def refuse_strangers(settings: dict[str, dict[str, Any]]) -> None:
    """Raise OptionError where a word names a method's setting, for no method is named."""
    from prunebench.run import options

    for name in settings:
        raise options.OptionError(f"unknown key {name}")
