"""The command line; the only file that prints."""

from __future__ import annotations

import argparse
import errno
import json
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import prunebench

if TYPE_CHECKING:
    from rich.progress import TaskID

STORAGE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EACCES, errno.EPERM)
"""What the disk says when it takes no more."""

FAILED, USAGE, INTERRUPTED = 1, 2, 130
"""Exit codes: something failed and says so in the results; a request that cannot be served; control-C."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; what the project knows how to name ends in one line, anything else in its traceback."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except ValueError as error:
        if type(error).__module__.partition(".")[0] != prunebench.__name__:
            raise
        print(f"prunebench: error: {' '.join(str(error).split())}", file=sys.stderr)
        return USAGE
    except OSError as error:
        if error.errno not in STORAGE:
            raise
        where = f" {error.filename}" if error.filename else ""
        print(f"prunebench: error: cannot write{where}: {error.strerror}; what is finished is kept", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("prunebench: interrupted; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="prunebench", description="Compare visual-token pruning methods honestly.")
    parser.add_argument("--version", action="version", version=f"prunebench {prunebench.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int], about: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=about, description=about)
        made.set_defaults(run=run)
        return made

    sweep = command("sweep", _sweep, "Run a grid of methods, budgets and tasks; the same command again goes on.")
    sweep.add_argument(
        "grid", nargs="*", metavar="GRID.yaml | key=value", help="model= methods= tasks= budgets= limit= out= seed= ..."
    )
    listing = command("list", _list, "List what can be named in a grid.")
    listing.add_argument("what", choices=("models", "methods", "tasks"))
    listing.add_argument("--models", action="store_true", help="with methods: on which families of models each one runs")
    listing.add_argument("--markdown", action="store_true", help="with --models: as the page of the documentation")
    listing.add_argument("--json", action="store_true")
    report = command("report", _report, "Fold a study's cells into tables and figures again.")
    report.add_argument("study", type=Path, metavar="STUDY")
    show = command("show", _show, "Draw the kept tokens over an image.")
    show.add_argument("options", nargs="*", metavar="key=value", help="model= method= budget= image= question= out= ...")
    check = command("check", _check, "Run the conformance checks on a method's file.")
    check.add_argument("file", type=Path, metavar="FILE")
    new = command("new", _new, "Write the file to start a method from.")
    new.add_argument("name", metavar="NAME")
    verify = command("verify", _verify, "Compare the methods with vectors from official code.")
    verify.add_argument("folder", type=Path, nargs="?", default=Path("tests/golden"), metavar="FOLDER")
    verify.add_argument("--json", action="store_true")
    verify.add_argument("--record", action="store_true", help="keep the counts that `list methods` shows")
    train = command("train", _train, "Train the weights of a method on a frozen model; the same command again goes on.")
    train.add_argument("method", metavar="METHOD")
    train.add_argument(
        "options", nargs="*", metavar="key=value", help="model= data= out= steps= batch= learning_rate= ... METHOD.setting="
    )
    reinforce = command("reinforce", _reinforce, "Tune a model, through an adapter, to answer from the evidence's tokens alone.")
    reinforce.add_argument("options", nargs="*", metavar="key=value", help="model= data= out= steps= batch= layer= rank= ...")
    testbed = command("testbed", _testbed, "Make the miniature models.")
    testbed.add_argument("action", choices=("train",))
    testbed.add_argument("out", type=Path, metavar="FOLDER")
    testbed.add_argument(
        "options", nargs="*", metavar="key=value", help="model= start= seed= resume= held_out= vision_steps= joint_steps="
    )
    return parser


def _sweep(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from prunebench.run import grid as grids

    files = [text for text in arguments.grid if "=" not in text]
    if len(files) > 1:
        raise grids.GridError(f"one grid file at most, got {', '.join(files)}; options are written key=value")
    grid = grids.load(Path(files[0]) if files else None, [text for text in arguments.grid if "=" in text])
    _quiet()
    from prunebench import report
    from prunebench.run.runner import sweep

    console = Console(stderr=True)
    with _Progress(console) as progress:
        outcome = sweep(grid, progress)
        progress.doing("folding tables and figures")
        built = report.build(outcome.folder)
    _print(report.terminal(outcome.folder, _width()))
    for warning in built.warnings:
        console.print(f"note: {warning}", style="yellow", highlight=False)
    print(
        f"{outcome.folder}: {', '.join(str(p.relative_to(outcome.folder)) for p in (built.leaderboard, built.metrics))}", end=""
    )
    print(f", {len(built.figures)} figures" if built.figures else "")
    if outcome.failed:
        print(
            f"prunebench: {len(outcome.failed)} of {len(outcome.statuses)} cells failed: {', '.join(outcome.failed)}",
            file=sys.stderr,
        )
        return FAILED
    return 0


def _list(arguments: argparse.Namespace) -> int:
    from prunebench import registry

    if (arguments.models and arguments.what != "methods") or (arguments.markdown and not arguments.models):
        raise registry.RegistryError("--models belongs to `list methods`, --markdown to `list methods --models`")
    if arguments.markdown:
        from prunebench import support

        print(support.markdown(), end="")
        return 0
    listed = {"models": _models, "methods": _methods, "tasks": _tasks}[arguments.what]
    rows, notes = _support(arguments.json) if arguments.models else (listed(), [])
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return 0
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in rows[0] if rows else ():
        table.add_column(column, style="bold" if column in ("name", "method") else "")
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    _print(table)
    for number, note in enumerate(notes, 1):
        print(f"({number}) {note}")
    return 0


def _models() -> list[dict[str, Any]]:
    from prunebench import models

    return [
        {"name": name, "source": "in the package" if Path(target).is_dir() else target}
        for name, target in models.aliases().items()
    ]


def _methods() -> list[dict[str, Any]]:
    from prunebench import registry, verify

    rows = []
    for name in registry.names():
        method = registry.get(name)
        card = registry.card(method)
        shown = ", ".join(f"{key}={value}" for key, value in registry.settings(method()).items())
        rows.append({"name": name, "status": verify.status(name), "settings": shown, "paper": card.paper, "code": card.code})
    return rows


def _support(full: bool) -> tuple[list[dict[str, Any]], list[str]]:
    """A row a method, a column a family: "ok" or why not, in full or as the number of a note."""
    from prunebench import support

    if not full:
        rows, notes = support.table()
        return list(rows), notes
    reasons: dict[str, dict[str, Any]] = {}
    for place in support.matrix():
        reasons.setdefault(place.method, {"method": place.method})[place.family] = place.reason or "ok"
    return list(reasons.values()), []


def _tasks() -> list[dict[str, Any]]:
    from prunebench import benchmarks

    return [asdict(task) for task in benchmarks.listed()]


def _report(arguments: argparse.Namespace) -> int:
    from prunebench import report

    built = report.build(arguments.study)
    _print(report.terminal(arguments.study, _width()))
    for warning in built.warnings:
        print(f"note: {warning}", file=sys.stderr)
    return FAILED if built.warnings else 0


def _show(arguments: argparse.Namespace) -> int:
    from prunebench.report.show import draw
    from prunebench.run.picture import picture

    _quiet()
    drawn = picture(arguments.options)
    print(draw(drawn.image, drawn.masks, drawn.out, drawn.title, boxes=drawn.boxes, captions=drawn.captions))
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from prunebench.testing import check_file

    checks = check_file(arguments.file)
    for check in checks:
        print(f"{'ok  ' if check.ok else 'FAIL'} {check.name}: {check.message}")
    return 0 if all(check.ok for check in checks) else FAILED


def _new(arguments: argparse.Namespace) -> int:
    from prunebench.testing import new_file

    path = new_file(arguments.name, Path.cwd())
    print(f"{path.name} is written; next: prunebench check {path.name}, prunebench sweep methods=./{path.name}")
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from prunebench import verify

    found = verify.verify(arguments.folder)
    if arguments.record:
        verify.write_verified(found)
    if arguments.json:
        print(json.dumps([asdict(comparison) for comparison in found], indent=2))
    else:
        for comparison in found:
            if not comparison.agree:
                print(f"FAIL {comparison.method} {comparison.file} {comparison.field}: {comparison.difference}")
        for method, (agree, files) in verify.summary(found).items():
            print(f"{method}: verified {agree}/{files}")
    return 0 if all(comparison.agree for comparison in found) else FAILED


def _train(arguments: argparse.Namespace) -> int:
    from prunebench import models, registry
    from prunebench.bounds import path
    from prunebench.run import options
    from prunebench.run.cell import slug
    from prunebench.trained import Trained
    from prunebench.training import Plan, open_data, train
    from prunebench.training.options import TrainOptions, schedule

    _quiet()
    name = arguments.method
    label = Path(name).stem if name.endswith(".py") else name  # what its settings begin with
    told, settings = _told(arguments.options, TrainOptions)
    strangers = [key for key in settings if key not in (label, name)]
    if strangers:
        listed = registry.suggest(strangers[0], options.keys(TrainOptions), "")
        raise options.OptionError(f"{strangers[0]} is no option of train{listed}; the method's are written {label}.KEY=value")
    pruner = registry.build(name, {**settings.get(label, {}), **settings.get(name, {})})
    if not isinstance(pruner, Trained):
        raise options.OptionError(f"{label} has no weights to train")
    plan, data = schedule(Plan, told), open_data(told.data, told.seed)
    loaded = models.load(told.model, device=told.device, dtype=told.dtype)
    start = path("start", told.start) if told.start else None
    out = told.folder(f"{label}-{slug(told.model)}")
    with _training_bar(told.steps) as progress:
        folder = train(pruner, loaded, data, out, plan, sizes=told.sizes, start=start, progress=progress)
    print((out / "held_out.json").read_text().strip())
    print(folder)
    return 0


def _reinforce(arguments: argparse.Namespace) -> int:
    from prunebench import models
    from prunebench.run import options
    from prunebench.run.cell import slug
    from prunebench.training import open_data
    from prunebench.training.options import ReinforceOptions, schedule
    from prunebench.training.reinforce import Tuning, reinforce

    _quiet()
    told, strangers = _told(arguments.options, ReinforceOptions)
    if strangers:
        raise options.OptionError(f"unknown key {next(iter(strangers))}")
    tuning, data = schedule(Tuning, told), open_data(told.data, told.seed)
    loaded = models.load(told.model, device=told.device, dtype=told.dtype)
    out = told.folder(f"reinforce-{slug(told.model)}")
    with _training_bar(told.steps) as progress:
        folder = reinforce(loaded, data, out, tuning, progress=progress)
    print((out / "held_out.json").read_text().strip())
    print(folder)
    return 0


T = TypeVar("T")


def _told(texts: Sequence[str], kind: type[T]) -> tuple[T, dict[str, dict[str, Any]]]:
    """key=value texts as options of a kind, and what is left: settings of methods, by label."""
    from prunebench.run import options

    given: dict[str, Any] = {}
    settings = options.override(given, texts, kind)
    try:
        return options.structured(kind, given), settings
    except (TypeError, OverflowError) as error:  # a list where a mapping is due, a number that is no float
        raise options.OptionError(f"{', '.join(given)}: {error}") from None


@contextmanager
def _training_bar(steps: int) -> Iterator[Callable[[int, int, dict[str, float]], None]]:
    """A bar with the latest figures on a terminal, a line now and then elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    def told(figures: dict[str, float]) -> str:
        return " ".join(f"{name} {value:.3f}" for name, value in figures.items())

    console = Console(stderr=True)
    if not console.is_terminal:

        def line(step: int, steps: int, figures: dict[str, float]) -> None:
            print(f"step {step}/{steps} {told(figures)}", file=sys.stderr, flush=True)

        yield line
        return
    parts = BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}")
    with Progress(*parts, console=console) as bar:
        task = bar.add_task("", total=steps)
        yield lambda step, _, figures: bar.update(task, completed=step, description=told(figures))


def _testbed(arguments: argparse.Namespace) -> int:
    from prunebench.bounds import path
    from prunebench.run import options
    from prunebench.testbed.options import MiniatureOptions
    from prunebench.testbed.train import train

    told, strangers = _told(arguments.options, MiniatureOptions)
    if strangers:
        raise options.OptionError(f"unknown key {next(iter(strangers))}")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    folder = train(
        path("FOLDER", str(arguments.out)),
        model=told.model,
        seed=told.seed,
        recipe=told.recipe,
        start=None if told.start is None else path("start", told.start),
        resume=told.resume,
        held_out=told.held_out,
    )
    print(folder)
    return 0


def _print(renderable: Any) -> None:
    """To the terminal at its width, to a file or pipe at a width that cuts nothing."""
    from rich.console import Console

    Console(width=_width()).print(renderable)


def _width() -> int:
    """Columns of the terminal; wide enough for anything where there is none."""
    from rich.console import Console

    console = Console()
    return console.width if console.is_terminal else 200


def _quiet() -> None:
    """What libraries say beside the progress display."""
    warnings.filterwarnings("ignore")
    from transformers.utils import logging as transformers_logging

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # a failed fetch ends in one line, not in its retries
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]


class _Progress:
    """A bar with cells done, running and failed and the time left on a terminal; a line per cell elsewhere."""

    def __init__(self, console: Any) -> None:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self.console = console
        self.live: bool = console.is_terminal
        self.bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not self.live,
        )
        self.task: TaskID = self.bar.add_task("starting", total=None)
        self.cells = self.done = self.bad = self.now = self.tenth = 0

    def __enter__(self) -> _Progress:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def doing(self, what: str) -> None:
        self.bar.update(self.task, description=what)
        if not self.live:
            self._say(what)

    def begin(self, cells: int, done: int, units: int) -> None:
        self.cells, self.done = cells, done
        self.bar.reset(self.task, total=units)
        self._describe()
        if not self.live:
            self._say(f"{cells} cells, {done} of them done before, {units} calls of generate to go")

    def running(self, cells: int) -> None:
        self.now = cells
        self._describe()

    def advance(self, units: int) -> None:
        self.bar.advance(self.task, units)
        task = self.bar.tasks[0]
        tenth = int(10 * task.completed / task.total) if task.total else 0
        if not self.live and tenth > self.tenth:
            self.tenth = tenth
            self._say(f"{10 * tenth} %: {task.completed:.0f} of {task.total:.0f} calls")

    def finished(self, cell: str, status: str, reason: str) -> None:
        self.done, self.now = self.done + 1, self.now - 1
        failed = status in ("failed", "oom")
        self.bad += failed
        self._describe()
        first = reason.splitlines()[0] if reason else ""
        if failed or not self.live:
            self._say(f"[{self.done}/{self.cells}] {cell} {status} {first}".rstrip())

    def note(self, text: str) -> None:
        self._say(f"note: {text}")

    def _say(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _describe(self) -> None:
        self.bar.update(self.task, description=f"cells: {self.done} of {self.cells} done, {self.now} running, {self.bad} failed")


if __name__ == "__main__":
    sys.exit(main())
