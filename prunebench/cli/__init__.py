"""The command line; the only file that prints."""

from __future__ import annotations

import argparse
import atexit
import errno
import json
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeVar

import prunebench
from prunebench.border.interruption import Interruption, raises_interruption
from prunebench.border.text import clean, message, one_line

DENIED = (errno.EACCES, errno.EPERM)
STORAGE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, *DENIED)
"""What the disk says when it takes no more."""

FAILED, USAGE = 1, 2
"""Exit codes: something failed and says so in the results; a request that cannot be served."""

STOPPED = 128
"""Exit code of a program that a signal ended, less the signal's number: 130 for control-C, 143 for
SIGTERM.
"""

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; what the project knows how to name ends in one line, a bug of its own in its
    traceback.

    Only argparse leaves by SystemExit; one that a plug-in raises is a failure.
    """
    signals = _Signals()
    arguments: argparse.Namespace | None = None
    try:
        signals.catch()  # before anything heavy is imported
        _forgive()
        arguments = _parser().parse_args(argv)
        arguments.check = signals.check
        code = int(arguments.run(arguments))
        sys.stdout.flush()
        return code
    except BaseException as error:
        if isinstance(error, SystemExit) and arguments is None:
            raise
        if signals.stopped(error):
            signals.ignore()
            return _stopped(signals.number or signal.SIGINT, arguments)
        return _ended(error)
    finally:
        signals.release()


class Stopped(Interruption):
    """The program is to end, by control-C or another signal of that number."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class _Signals:
    """Control-C, SIGTERM and SIGHUP as exceptions; `number` is that of the last one that came."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._before: dict[int, Any] = {}
        self._unraisable = sys.unraisablehook

    def catch(self) -> None:
        """Raise Stopped where a signal arrives, but for those that whoever started the program
        wants ignored (nohup).
        """
        if threading.current_thread() is not threading.main_thread():
            return
        sys.unraisablehook = self._quietly
        for number in SIGNALS:
            before = signal.getsignal(number)
            if before is not None and before is not signal.SIG_IGN:
                self._before[number] = before
                signal.signal(number, self._stop)

    def check(self) -> None:
        """Raise again what a library's `except:` swallowed."""
        if self.number is not None:
            raise Stopped(self.number)

    def stopped(self, error: BaseException) -> bool:
        """Whether a signal is why the command ended: while a library is imported it may come out as
        any other error.
        """
        if self.number is not None:
            return True
        return (
            isinstance(error, KeyboardInterrupt) and signal.getsignal(signal.SIGINT) != self._stop
        )

    def ignore(self) -> None:
        """Nothing may come between the end and its message."""
        for number in self._before:
            signal.signal(number, signal.SIG_IGN)

    def release(self) -> None:
        """As it was before; while the interpreter shuts down control-C has nothing left to
        interrupt.
        """
        for number, before in self._before.items():
            signal.signal(number, before)
        if self._before:
            sys.unraisablehook = self._unraisable
            atexit.unregister(_shut)
            atexit.register(_shut)

    @raises_interruption
    def _stop(self, number: int, _: FrameType | None) -> NoReturn:
        self.number = number
        raise Stopped(number)

    def _quietly(self, event: Any) -> None:
        """A signal may arrive in a destructor, where Python only prints; `check` raises it again."""
        if not isinstance(event.exc_value, Stopped):
            self._unraisable(event)


def _shut() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _stopped(number: int, arguments: argparse.Namespace | None) -> int:
    """Say that a signal ended the command, and give its exit code."""
    what = "interrupted" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}"
    kept = {
        _sweep: "finished samples are kept",
        _train: "finished steps are kept",
        _reinforce: "finished steps are kept",
    }
    goes_on = kept.get(arguments.run) if arguments is not None else None
    _say(
        f"prunebench: {what}"
        + (f"; {goes_on}, and the same command goes on from here" if goes_on else "")
    )
    return STOPPED + number


def _ended(error: BaseException) -> int:
    """One line for what ended a command, and its exit code; a bug of our own goes on as it is."""
    if isinstance(error, BrokenPipeError):  # whoever read the output has seen enough
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return STOPPED + signal.SIGPIPE
    if isinstance(error, OSError):
        return _disk(error)
    if (
        isinstance(error, ValueError)
        and type(error).__module__.partition(".")[0] == prunebench.__name__
    ):
        return _fail(message(error), int(getattr(error, "code", USAGE)))
    if (
        isinstance(error, ModuleNotFoundError)
        and (error.name or "").partition(".")[0] != prunebench.__name__
    ):
        return _fail(
            f"the package {error.name} is missing; pip install 'prunebench[eval]' brings what the commands need",
            USAGE,
        )
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return _fail(
            f"out of memory: {one_line(message(error), 150)}; take a smaller model, batch or image",
            FAILED,
        )
    if isinstance(error, Exception):
        raise error
    return _fail(
        f"{_place(error)}, as if the program were to end there; that is a failure of the code that did it",
        FAILED,
    )


def _disk(error: OSError) -> int:
    where = f" {clean(str(error.filename))}" if error.filename else ""
    said = error.strerror or message(error)
    if error.errno not in STORAGE:
        return _fail(
            f"cannot use{where}: {said}" if where else f"{type(error).__name__}: {said}", USAGE
        )
    verb = "use" if error.errno in DENIED else "write"
    return _fail(f"cannot {verb}{where}: {said}; what is finished is kept", FAILED)


def _place(error: BaseException) -> str:
    """What was raised, and where."""
    import traceback

    frames = traceback.extract_tb(error.__traceback__)
    said = one_line(message(error), 60)
    return f"{type(error).__name__} ({said}) was raised in {Path(frames[-1].filename).name}, line {frames[-1].lineno}"


def _fail(text: str, code: int) -> int:
    _say(f"prunebench: error: {one_line(text, 280, tail=100)}")
    return code


def _say(line: str) -> None:
    """To whoever started the program, if they are still there."""
    with suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)


def _forgive() -> None:
    """Text that the terminal's encoding lacks is escaped; it ends no command."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with the words of a command in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(
            USAGE,
            f"prunebench: error: {one_line(message, 240, tail=100)}; see {self.prog} --help\n",
        )


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="prunebench", description="Compare visual-token pruning methods honestly."
    )
    parser.add_argument(
        "--version", action="version", version=f"prunebench {prunebench.__version__}"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(
        name: str, run: Callable[[argparse.Namespace], int], about: str
    ) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=about, description=about)
        made.set_defaults(run=run)
        return made

    sweep = command(
        "sweep", _sweep, "Run a grid of methods, budgets and tasks; the same command again goes on."
    )
    sweep.add_argument(
        "grid",
        nargs="*",
        metavar="GRID.yaml | key=value",
        help="model= methods= tasks= budgets= limit= out= seed= ...",
    )
    listing = command("list", _list, "List what can be named in a grid.")
    listing.add_argument("what", choices=("models", "methods", "tasks"))
    listing.add_argument(
        "--models",
        action="store_true",
        help="with methods: on which families of models each one runs",
    )
    listing.add_argument(
        "--markdown", action="store_true", help="with --models: as the page of the documentation"
    )
    listing.add_argument("--json", action="store_true")
    report = command("report", _report, "Fold a study's cells into tables and figures again.")
    report.add_argument("study", type=Path, metavar="STUDY")
    show = command("show", _show, "Draw the kept tokens over an image.")
    show.add_argument(
        "options",
        nargs="*",
        metavar="key=value",
        help="model= method= budget= image= question= out= ...",
    )
    check = command("check", _check, "Run the conformance checks on a method's file.")
    check.add_argument("file", type=Path, metavar="FILE")
    new = command("new", _new, "Write the file to start a method from.")
    new.add_argument("name", metavar="NAME")
    verify = command("verify", _verify, "Compare the methods with vectors from official code.")
    verify.add_argument(
        "folder", type=Path, nargs="?", metavar="FOLDER", help="vectors; else the checkout's own"
    )
    verify.add_argument(
        "--translators",
        type=Path,
        metavar="FOLDER",
        help="METHOD.py files that translate them; else the checkout's own",
    )
    verify.add_argument("--json", action="store_true")
    verify.add_argument(
        "--record", action="store_true", help="keep the counts that `list methods` shows"
    )
    train = command(
        "train",
        _train,
        "Train the weights of a method on a frozen model; the same command again goes on.",
    )
    train.add_argument("method", metavar="METHOD")
    train.add_argument(
        "options",
        nargs="*",
        metavar="key=value",
        help="model= data= out= steps= batch= learning_rate= ... METHOD.setting=",
    )
    reinforce = command(
        "reinforce",
        _reinforce,
        "Tune a model, through an adapter, to answer from the evidence's tokens alone.",
    )
    reinforce.add_argument(
        "options",
        nargs="*",
        metavar="key=value",
        help="model= data= out= steps= batch= layer= rank= ...",
    )
    testbed = command("testbed", _testbed, "Make the miniature models.")
    testbed.add_argument("action", choices=("train",))
    testbed.add_argument("out", type=Path, metavar="FOLDER")
    testbed.add_argument(
        "options",
        nargs="*",
        metavar="key=value",
        help="model= start= seed= resume= held_out= vision_steps= joint_steps=",
    )
    return parser


def _sweep(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from prunebench.run import grid as grids

    files = [text for text in arguments.grid if "=" not in text]
    if len(files) > 1:
        raise grids.GridError(
            f"one grid file at most, got {', '.join(files[:3])}; options are written key=value"
        )
    grid = grids.load(
        Path(files[0]) if files else None, [text for text in arguments.grid if "=" in text]
    )
    _quiet()
    from prunebench import report
    from prunebench.run.progress import Bar
    from prunebench.run.runner import sweep

    console = Console(stderr=True)
    with Bar(console, arguments.check) as progress:
        outcome = sweep(grid, progress)
        progress.doing("folding tables and figures")
        built = report.build(outcome.folder)
    _print(report.terminal(outcome.folder, _width()))
    for warning in built.warnings:
        console.print(
            f"note: {one_line(warning, 1000)}",
            style="yellow",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    tables = ", ".join(path.name for path in (built.leaderboard, built.metrics))
    print(
        f"{clean(str(outcome.folder))}: {tables}"
        + (f", {len(built.figures)} figures" if built.figures else "")
    )
    if outcome.failed:
        count = f"{len(outcome.failed)} of {len(outcome.statuses)} cells failed"
        _say(one_line(f"prunebench: {count}: {', '.join(outcome.failed)}"))
        return FAILED
    return 0


def _list(arguments: argparse.Namespace) -> int:
    from prunebench import registry

    if (arguments.models and arguments.what != "methods") or (
        arguments.markdown and not arguments.models
    ):
        raise registry.RegistryError(
            "--models belongs to `list methods`, --markdown to `list methods --models`"
        )
    if arguments.markdown:
        from prunebench.testing import matrix as support

        print(support.markdown(), end="")
        return 0
    listed = {"models": _models, "methods": _methods, "tasks": _tasks}[arguments.what]
    rows, notes = _support(arguments.json) if arguments.models else (listed(), [])
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return 0
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column in rows[0] if rows else ():
        table.add_column(column, style="bold" if column in ("name", "method") else "")
    for row in rows:
        table.add_row(*(Text("" if value is None else clean(str(value))) for value in row.values()))
    _print(table)
    for number, note in enumerate(notes, 1):
        print(f"({number}) {one_line(note, 1000)}")
    return 0


def _models() -> list[dict[str, Any]]:
    from prunebench import models

    return [
        {"name": name, "source": "in the package" if Path(target).is_dir() else target}
        for name, target in models.aliases().items()
    ]


def _methods() -> list[dict[str, Any]]:
    from prunebench import registry
    from prunebench.testing import verified

    rows = []
    for name in registry.names():
        try:
            method = registry.get(name)
            card = registry.card(method)
            shown = ", ".join(
                f"{key}={value}" for key, value in registry.settings(method()).items()
            )
        except (
            Exception
        ) as error:  # a file that somebody put there; the others are listed all the same
            rows.append(
                {
                    "name": name,
                    "status": f"broken: {one_line(message(error), 120)}",
                    "settings": "",
                    "paper": None,
                    "code": None,
                }
            )
            continue
        rows.append(
            {
                "name": name,
                "status": verified.status(name),
                "settings": shown,
                "paper": card.paper,
                "code": card.code,
            }
        )
    return rows


def _support(full: bool) -> tuple[list[dict[str, Any]], list[str]]:
    """A row a method, a column a family: "ok" or why not, in full or as the number of a note."""
    from prunebench.testing import matrix as support

    if not full:
        rows, notes = support.table()
        return list(rows), notes
    reasons: dict[str, dict[str, Any]] = {}
    for place in support.matrix():
        reasons.setdefault(place.method, {"method": place.method})[place.family] = (
            place.reason or "ok"
        )
    return list(reasons.values()), []


def _tasks() -> list[dict[str, Any]]:
    from prunebench import benchmarks

    return [asdict(task) for task in benchmarks.listed()]


def _report(arguments: argparse.Namespace) -> int:
    from prunebench import report

    built = report.build(arguments.study)
    _print(report.terminal(arguments.study, _width()))
    for warning in built.warnings:
        _say(f"note: {one_line(warning, 1000)}")
    return FAILED if built.warnings else 0


def _show(arguments: argparse.Namespace) -> int:
    from prunebench.report.overlay import draw
    from prunebench.run.show import picture

    _quiet()
    drawn = picture(arguments.options)
    path = draw(
        drawn.image, drawn.masks, drawn.out, drawn.title, boxes=drawn.boxes, captions=drawn.captions
    )
    print(clean(str(path)))
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from prunebench.testing import check_file

    checks = check_file(arguments.file)
    for check in checks:
        print(f"{'ok  ' if check.ok else 'FAIL'} {check.name}: {one_line(check.message, 1000)}")
    return 0 if all(check.ok for check in checks) else FAILED


def _new(arguments: argparse.Namespace) -> int:
    from prunebench.testing import new_file

    path = new_file(arguments.name, Path.cwd())
    print(
        f"{path.name} is written; next: prunebench check {path.name}, prunebench sweep methods=./{path.name}"
    )
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from prunebench.testing import verified, verify

    found = verify.verify(arguments.folder, translators=arguments.translators)
    if arguments.record:
        verified.write_verified(found)
    if arguments.json:
        print(json.dumps([asdict(comparison) for comparison in found], indent=2))
    else:
        for comparison in found:
            if not comparison.agree:
                about = f"{comparison.method} {comparison.file} {comparison.field}: {comparison.difference}"
                print(f"FAIL {one_line(about, 1000)}")
        for method, (agree, files) in verify.summary(found).items():
            print(f"{method}: verified {agree}/{files}")
    return 0 if all(comparison.agree for comparison in found) else FAILED


def _train(arguments: argparse.Namespace) -> int:
    from prunebench import models, registry
    from prunebench.border.bounds import path
    from prunebench.run import options
    from prunebench.run.cell import slug
    from prunebench.trained import Trained
    from prunebench.training import TrainSchedule, open_data, train
    from prunebench.training.options import TrainOptions, schedule

    _quiet()
    name = arguments.method
    label = Path(name).stem if name.endswith(".py") else name  # what its settings begin with
    told, settings = _told(arguments.options, TrainOptions)
    strangers = [key for key in settings if key not in (label, name)]
    if strangers:
        listed = registry.suggest(strangers[0], options.keys(TrainOptions), "")
        raise options.OptionError(
            f"{strangers[0]} is no option of train{listed}; the method's are written {label}.KEY=value"
        )
    pruner = registry.build(name, {**settings.get(label, {}), **settings.get(name, {})})
    if not isinstance(pruner, Trained):
        raise options.OptionError(f"{label} has no weights to train")
    plan, data = schedule(TrainSchedule, told), open_data(told.data, told.seed)
    loaded = models.load(told.model, device=told.device, dtype=told.dtype)
    start = path("start", told.start) if told.start else None
    out = told.folder(f"{label}-{slug(told.model)}")
    with _training_bar(told.steps) as progress:
        folder = train(
            pruner, loaded, data, out, plan, sizes=told.sizes, start=start, progress=progress
        )
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
    except (
        TypeError,
        OverflowError,
    ) as error:  # a list where a mapping is due, a number that is no float
        raise options.OptionError(f"{', '.join(given)}: {error}") from None


@contextmanager
def _training_bar(steps: int) -> Iterator[Callable[[int, int, dict[str, float]], None]]:
    """A bar with the latest figures on a terminal, a line now and then elsewhere."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    def told(figures: dict[str, float]) -> str:
        return " ".join(f"{name} {value:.3f}" for name, value in figures.items())

    console = Console(stderr=True)
    if not console.is_terminal:

        def line(step: int, steps: int, figures: dict[str, float]) -> None:
            print(f"step {step}/{steps} {told(figures)}", file=sys.stderr, flush=True)

        yield line
        return
    parts = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*parts, console=console) as bar:
        task = bar.add_task("", total=steps)
        yield lambda step, _, figures: bar.update(task, completed=step, description=told(figures))


def _testbed(arguments: argparse.Namespace) -> int:
    from prunebench.border.bounds import path
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

    logging.getLogger("huggingface_hub").setLevel(
        logging.ERROR
    )  # a failed fetch ends in one line, not in its retries
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
