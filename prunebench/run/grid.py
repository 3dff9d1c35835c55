"""Grid: the question of a study, read from YAML and key=value words, checked at the border, and
written back.

What the keys are and which cells they come to stands in `question`. Whatever knows methods is
imported late: the keys are listed without torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from prunebench.border.text import one_line, short_path
from prunebench.run import options, plain
from prunebench.run.keys import GridError, Key, check_values
from prunebench.run.lists import (
    CONTROLS,
    LISTS,
    SINGULAR,
    budget_texts,
    in_plural,
    model_names,
    task_names,
)
from prunebench.run.names import check_path, expanded
from prunebench.run.plain import PlainError, short, short_key
from prunebench.run.question import HOW, MOST_FPS, MOST_SECONDS, Cost, Grid, keys
from prunebench.study.record import BLIND, OWN

__all__ = [
    "CONTROLS",
    "Cost",
    "Grid",
    "GridError",
    "Key",
    "build",
    "differences",
    "dump",
    "keys",
    "load",
    "short_path",
    "stored_differences",
]

HEAD = "# The question of this study; `prunebench sweep` on this file continues it.\n"
"""How a study's own grid.yaml begins; a user's file of any name does not."""

MOST_ENTRIES = 1_000
"""Of methods, of tasks, and of budgets."""

MOST_CELLS = 100_000

MOST_GIB = 10_000
"""Memory of a GPU, far above any."""

LONGEST_ID = 230
"""Bytes of a cell's id, which is a folder's name; some are left for what is put behind it."""


def load(file: Path | None = None, overrides: Iterable[str] = ()) -> Grid:
    """The grid of a YAML file with key=value overrides on top; raises GridError in one line."""
    content: dict[str, Any] = {}
    continues = False
    if file is not None:
        text = _text(file)
        continues = text.startswith(HEAD)
        content = _mapping(file, text)
        try:
            plain.check(content)
        except PlainError as error:
            raise GridError(one_line(f"grid file {short_path(file)}: {error}", tail=100)) from None
        content = in_plural(content)
        if isinstance(content.get("methods"), list):
            content["methods"] = [_beside(entry, file.parent) for entry in content["methods"]]
    try:
        words = [_in_plural(word) for word in overrides]
        settings = options.override(content, words, Grid, LISTS)
    except options.OptionError as error:
        raise GridError(one_line(str(error), tail=100)) from None
    if file is not None and continues and content.get("out") is None:
        content["out"] = str(file.parent)  # the question stands in its study's own folder
    return build(content, settings)


def build(content: Mapping[str, Any], settings: options.Settings | None = None) -> Grid:
    """The checked grid of plain data, with settings of methods by label on top; raises GridError in
    one line.
    """
    content = in_plural(content)
    if isinstance(content.get("cost"), bool):
        content["cost"] = {"enabled": content["cost"]}
    for key in LISTS:
        if key in content and not isinstance(content[key], list):
            content[key] = [content[key]]
        if len(content.get(key, ())) > MOST_ENTRIES:
            raise GridError(f"{key} has {len(content[key])} entries; the most is {MOST_ENTRIES}")
    try:
        grid = options.structured(Grid, content)
        _check(grid, settings or {})
    except (options.OptionError, GridError, PlainError) as error:
        raise GridError(one_line(str(error), tail=100)) from None
    return grid


def dump(grid: Grid) -> str:
    """The question as YAML that `load` reads back to an equal grid."""
    return HEAD + plain.dump(grid.question())


def differences(one: Grid, other: Grid) -> list[str]:
    """What two grids ask differently, each as "key is one's value there and other's here"."""
    from prunebench.run.difference import differences_of

    return differences_of(one.question(), other.question())


def stored_differences(file: Path, grid: Grid) -> list[str]:
    """What the question that stands in a study's folder asks differently from `grid`, as
    `differences` says it.

    The file is read as data: no method that it names is imported. A key or a setting that it does
    not have yet stands at its default. Raises GridError where it cannot be read.
    """
    from prunebench.run.difference import completed, differences_of

    stored = in_plural(_mapping(file, _text(file)))
    # where a study lies is no part of its question, so a folder may be moved
    for key in HOW:
        stored.pop(key, None)
    if not stored:
        raise GridError(f"{short_path(file)} is empty")
    return differences_of(completed(stored, grid), grid.question())


# ---- reading -------------------------------------------------------------------------------------


def _text(file: Path) -> str:
    """What stands in a grid's file; raises GridError where it is no text, or too long."""
    most = 4 * plain.MOST_CHARACTERS  # bytes of as many characters
    try:
        with file.open("rb") as stream:
            # one byte more than is allowed, so that a longer file is told apart
            content = stream.read(most + 1)
        return content.decode("utf-8-sig")
    except FileNotFoundError:
        raise GridError(
            f"no grid file {short_path(file)}; "
            "give a YAML file, or key=value, such as methods=fastv,divprune"
        ) from None
    except UnicodeDecodeError as error:
        # cut off inside a character: the text may well be UTF-8, but it is too long
        if len(content) > most:
            raise GridError(
                f"grid file {short_path(file)} is too long; the most is {most} bytes"
            ) from None
        raise GridError(
            f"grid file {short_path(file)} is no UTF-8 text: byte {error.start}: {error.reason}"
        ) from None
    except (OSError, ValueError) as error:  # a name that no file can have is a ValueError
        reason = getattr(error, "strerror", None) or str(error)
        raise GridError(f"grid file {short_path(file)} cannot be read: {reason}") from None


def _mapping(file: Path, text: str) -> dict[str, Any]:
    """The keys and values of a grid's file."""
    try:
        content = plain.parse(text)
    except PlainError as error:
        raise GridError(f"grid file {short_path(file)} is no YAML for a grid: {error}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise GridError(f"grid file {short_path(file)} must hold keys and values, found a {kind}")
    return content


def _in_plural(word: str) -> str:
    """An option whose key holds a list under that list's one name: "model=x" is "models=x"."""
    name, equals, value = word.partition("=")
    return f"{SINGULAR.get(name, name)}{equals}{value}"


def _beside(entry: Any, folder: Path) -> Any:
    """A method's file that a YAML names, looked for beside the YAML where the working directory has
    none.
    """
    if isinstance(entry, Mapping):
        return {**entry, "name": _beside(entry.get("name"), folder)}
    if not isinstance(entry, str) or not entry.endswith(".py"):
        return entry
    try:
        inside = not Path(entry).exists() and (folder / entry).exists()
    except OSError:  # a name that no file can have; it is refused where names are checked
        return entry
    return str(folder / entry) if inside else entry


# ---- checking ------------------------------------------------------------------------------------


def _check(grid: Grid, settings: options.Settings) -> None:
    """Every check that needs no model and no data; brings tasks, budgets and paths into their one
    form.
    """
    check_values(grid)
    _check_rest(grid)
    for key in LISTS:
        if not getattr(grid, key):
            raise GridError(f"{key} is empty; name at least one")
    grid.models = model_names(grid.models)
    grid.budgets = budget_texts(grid.budgets)
    grid.tasks = task_names(grid.tasks)
    if settings:
        from prunebench.run.variants import entries, with_settings

        named_entries = entries(grid.methods, grid.controls)
        grid.methods = list(with_settings(named_entries, settings, options.keys(Grid)))
    _check_size(grid)
    _check_own(grid)


def _check_rest(grid: Grid) -> None:
    """What is more than a choice or a bound: seconds, names and paths."""
    if grid.timeout is not None and not 0 < grid.timeout <= MOST_SECONDS:
        raise GridError(
            f"timeout is {grid.timeout}; it is seconds a sample, above 0 and at most {MOST_SECONDS}"
        )
    if grid.fps is not None and not 0 < grid.fps <= MOST_FPS:
        raise GridError(f"fps is {grid.fps}; it is frames a second, above 0 and at most {MOST_FPS}")
    for key in ("attention", "revision", "ray_address", "out"):
        value = getattr(grid, key)
        if value is not None:
            check_path(key, value)
    if grid.worker_gpu_memory is not None and not 0 < grid.worker_gpu_memory <= MOST_GIB:
        raise GridError(
            f"worker_gpu_memory is {grid.worker_gpu_memory}; it is GiB, above 0 and at most "
            f"{MOST_GIB}"
        )
    _check_executor(grid)
    if grid.revision is not None and len(grid.models) > 1:
        raise GridError(
            f"revision is {short(grid.revision)}, which is one model's, and the grid has "
            f"{len(grid.models)}; sweep that model alone"
        )
    if grid.out is not None and expanded(grid.out).startswith("~"):
        raise GridError(
            f"out is {short(grid.out)}, and there is no such home folder; "
            f"write ./{short_key(grid.out)} for a folder"
        )


def _check_executor(grid: Grid) -> None:
    """That nothing is said to an executor that does not listen."""
    if grid.executor == "local":
        for key in ("workers", "ray_address", "worker_gpu_memory"):
            value = getattr(grid, key)
            if value is not None:
                raise GridError(f"{key} is {short(value)}, which is Ray's; add executor=ray")
    if grid.ray_address is not None and grid.ray_address.startswith("ray://"):
        raise GridError(
            f"ray_address is {short(grid.ray_address)}, which is for clients outside a cluster; "
            "sweep on one of its machines, with ray_address=auto"
        )


def _check_own(grid: Grid) -> None:
    """That a grid which asks for methods' own operating points alone names one that has one."""
    if grid.budgets != [OWN]:
        return
    without = grid.without_own()
    methods = [one for one in grid.variants() if one.name not in (*CONTROLS, BLIND)]
    if len(without) == len(methods):
        listed = ", ".join(without) or "there are but controls"
        raise GridError(
            f"budgets is own, and none of the methods has an operating point of its own: {listed}; "
            "add a share, such as 0.25"
        )


def _check_size(grid: Grid) -> None:
    """That the grid has no more cells, no longer names and no more text than a study can hold."""
    # cost is measured on the first task only
    kinds = len(grid.tasks) + grid.cost.enabled
    count = len(grid.models) * kinds * len(grid.variants()) * len(grid.budgets)
    if count > MOST_CELLS:
        raise GridError(
            f"the grid has {count} cells; the most is {MOST_CELLS}, "
            "so ask for fewer models, methods, tasks or budgets"
        )
    for cell in grid.cells(grid.tasks):
        if len(cell.id.encode()) > LONGEST_ID:
            raise GridError(
                f"cell {short_key(cell.id)} has a name of {len(cell.id)} characters, and a folder "
                f"has at most {LONGEST_ID}; "
                "shorten the label, or the file name of the model or task"
            )
    if len(dump(grid)) > plain.MOST_CHARACTERS:
        raise GridError(
            f"the grid is longer than {plain.MOST_CHARACTERS} characters; "
            "split it into several studies"
        )
