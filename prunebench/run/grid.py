"""Grid: the question a study asks, read from YAML and key=value overrides, checked at the border,
expanded to cells.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from prunebench import registry
from prunebench.border.interruption import interrupts
from prunebench.border.text import message, one_line
from prunebench.budget import Budget, BudgetError
from prunebench.pruner import Pruner
from prunebench.run import options, plain
from prunebench.run.cell import Cell, Variant, slug
from prunebench.run.names import check_label, check_path, expanded
from prunebench.run.plain import PlainError, short, short_key
from prunebench.study.record import BASELINE, Kind

CONTROLS = (BASELINE, "random", "uniform", "pool", "resize")
"""Methods every study holds, so that any other is seen beside the cheapest things that could be
done instead.
"""

HEAD = "# The question of this study; `prunebench sweep` on this file continues it.\n"
"""How a study's own grid.yaml begins; a user's file of any name does not."""

DTYPES = ("auto", "float32", "bfloat16", "float16")
DEVICES = ("auto", "cpu", "cuda")
WEIGHTS = ("pretrained", "random")
BOUNDS: dict[str, tuple[int, int]] = {
    "limit": (1, 10**9),
    "seed": (0, plain.MOST),
    "batch": (1, 4096),
    "threads": (1, 1024),
    "max_image_pixels": (1, 10**12),
    "cost.inputs": (1, 10_000),
    "cost.pairs": (1, 100_000),
    "cost.warmup": (0, 10_000),
    "cost.new_tokens": (2, 10_000),
}
"""The least and the most that a number can be."""

MOST_SECONDS = 10**7
MOST_ENTRIES = 1_000
"""Of methods, of tasks, and of budgets."""

MOST_CELLS = 100_000
MOST_TOKENS = 10**9
LONGEST_ID = 230
"""Bytes of a cell's id, which is a folder's name; some are left for what is put behind it."""

LISTS = ("methods", "tasks", "budgets")
BESIDE = ("name", "label", "positions")
"""What an entry of `methods` holds beside the method's own settings."""


class GridError(ValueError):
    """A grid that asks for something unknown or impossible."""


@dataclass
class Cost:
    """The cost pass: `pairs` interleaved runs of method and unpruned baseline on `inputs` samples
    of the first task.
    """

    enabled: bool = True
    inputs: int = 1
    pairs: int = 10
    warmup: int = 2
    new_tokens: int = 8


@dataclass
class Grid:
    """One study. `methods` are names, files, or mappings with a name, a label and settings; `limit`
    None means all samples.

    With `batch` above 1 a batch's selector FLOPs are shared evenly. `threads` None means one for a
    miniature on the CPU and torch's own choice for anything larger; `timeout` is seconds a sample,
    None as long as it takes; `max_image_pixels` None is the built-in limit; `out` None a folder
    under results/scratch named after the grid's content. `trust_remote_code` lets the model's own
    folder run its code.
    """

    model: str = "tiny-qwen2.5-vl"
    methods: list[Any] = field(default_factory=lambda: ["all"])
    tasks: list[Any] = field(default_factory=lambda: ["scenes_mixed"])
    budgets: list[Any] = field(default_factory=lambda: ["0.75", "0.5", "0.25", "0.1"])
    limit: int | None = None
    seed: int = 0
    controls: bool = True
    batch: int = 1
    weights: str = "pretrained"
    revision: str | None = None
    trust_remote_code: bool = False
    device: str = "auto"
    dtype: str = "auto"
    attention: str = "sdpa"
    threads: int | None = None
    timeout: float | None = None
    max_image_pixels: int | None = None
    cost: Cost = field(default_factory=Cost)
    out: str | None = None

    def variants(self) -> list[Variant]:
        """The methods with their settings, controls first; raises GridError.

        They are built once: a method's file that changes or goes while a sweep runs changes
        nothing.
        """
        asked = (list(self.methods), self.controls)
        # beside the fields, which are what a user can set
        kept: tuple[Any, list[Variant]] | None = vars(self).get("_variants")
        if kept is None or kept[0] != asked:
            try:
                kept = vars(self)["_variants"] = asked, _variants(self.methods, self.controls)
            except PlainError as error:
                raise GridError(str(error)) from None
        return list(kept[1])

    def folder(self) -> Path:
        """The study's folder."""
        if self.out is not None:
            return Path(expanded(self.out))
        return Path("results") / "scratch" / f"{slug(self.model)}-{self.digest()[:8]}"

    def question(self) -> dict[str, Any]:
        """Everything that makes this study this study, as plain data: all but where it is stored."""
        asked = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "out"}
        asked["cost"] = asdict(self.cost)
        asked["methods"] = [variant.entry() for variant in self.variants()]
        return {key: plain.storable(value) for key, value in asked.items()}

    def digest(self) -> str:
        """A hash of the question; what is at its default is left out, so that a new key leaves old
        studies their names.
        """
        usual = _usual()
        asked = {key: value for key, value in self.question().items() if usual[key] != value}
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()

    def cells(self, tasks: Sequence[str]) -> list[Cell]:
        """The quality cells of every task, then the cost cells, which stand on the first task.

        The baseline ignores budgets, so it runs once where the others run once per budget.
        """
        budgets = [Budget.parse(text) for text in self.budgets]
        variants = self.variants()
        cells = []
        passes: list[tuple[Kind, Sequence[str]]] = [("quality", tasks)]
        if self.cost.enabled:
            passes.append(("cost", tasks[:1]))
        for kind, over in passes:
            for task in over:
                for variant in variants:
                    for budget in [None] if variant.name == BASELINE else budgets:
                        cells.append(Cell(kind, self.model, variant, budget, task, self.seed))
        return cells


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
        if isinstance(content.get("methods"), list):
            content["methods"] = [_beside(entry, file.parent) for entry in content["methods"]]
    try:
        settings = options.override(content, overrides, Grid, LISTS)
    except options.OptionError as error:
        raise GridError(one_line(str(error), tail=100)) from None
    if continues and content.get("out") is None:
        content["out"] = (
            str(file.parent) if file is not None else None
        )  # the question stands in its study's own folder
    return build(content, settings)


def build(content: Mapping[str, Any], settings: options.Settings | None = None) -> Grid:
    """The checked grid of plain data, with settings of methods by label on top; raises GridError in
    one line.
    """
    content = dict(content)
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
    return _differences(one.question(), other.question())


def stored_differences(file: Path, grid: Grid) -> list[str]:
    """What the question that stands in a study's folder asks differently from `grid`, as
    `differences` says it.

    The file is read as data: no method that it names is imported. A key or a setting that it does
    not have yet stands at its default. Raises GridError where it cannot be read.
    """
    stored = _mapping(file, _text(file))
    stored.pop("out", None)
    if not stored:
        raise GridError(f"{short_path(file)} is empty")
    return _differences(_completed(stored, grid), grid.question())


def short_path(path: Path) -> str:
    """A path for a message: of a long one the end."""
    text = one_line(str(path), 1000)
    return text if len(text) <= 80 else "…" + text[-79:]


# ---- reading -------------------------------------------------------------------------------------


def _text(file: Path) -> str:
    most = 4 * plain.MOST_CHARACTERS  # bytes of as many characters
    try:
        with file.open("rb") as stream:
            content = stream.read(most + 1)
        return content.decode("utf-8-sig")
    except FileNotFoundError:
        raise GridError(
            f"no grid file {short_path(file)}; give a YAML file, or key=value, such as methods=fastv,divprune"
        ) from None
    except UnicodeDecodeError as error:
        if len(content) > most:
            raise GridError(
                f"grid file {short_path(file)} is too long; the most is {most} bytes"
            ) from None
        raise GridError(
            f"grid file {short_path(file)} is no UTF-8 text: byte {error.start}: {error.reason}"
        ) from None
    except (OSError, ValueError) as error:  # a name that no file can have is a ValueError
        said = getattr(error, "strerror", None) or str(error)
        raise GridError(f"grid file {short_path(file)} cannot be read: {said}") from None


def _mapping(file: Path, text: str) -> dict[str, Any]:
    try:
        content = plain.parse(text)
    except PlainError as error:
        raise GridError(f"grid file {short_path(file)} is no YAML for a grid: {error}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise GridError(
            f"grid file {short_path(file)} must hold keys and values, found a {type(content).__name__}"
        )
    return content


def _beside(entry: Any, folder: Path) -> Any:
    """A method file named in a YAML, looked for beside it where it is not in the working directory."""
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
    _check_values(grid)
    for key in LISTS:
        if not getattr(grid, key):
            raise GridError(f"{key} is empty; name at least one")
    grid.budgets = _budgets(grid.budgets)
    grid.tasks = _tasks(grid.tasks)
    if settings:
        grid.methods = _with_settings(grid, settings)
    variants = grid.variants()
    count = (len(grid.tasks) + grid.cost.enabled) * len(variants) * len(grid.budgets)
    if count > MOST_CELLS:
        raise GridError(
            f"the grid has {count} cells; the most is {MOST_CELLS}, so ask for fewer methods, tasks or budgets"
        )
    for cell in grid.cells(grid.tasks):
        if len(cell.id.encode()) > LONGEST_ID:
            raise GridError(
                f"cell {short_key(cell.id)} has a name of {len(cell.id)} characters, and a folder has at most {LONGEST_ID}; "
                "shorten the label, or the file name of the model or task"
            )
    if len(dump(grid)) > plain.MOST_CHARACTERS:
        raise GridError(
            f"the grid is longer than {plain.MOST_CHARACTERS} characters; split it into several studies"
        )


def _check_values(grid: Grid) -> None:
    for key, choices in (("weights", WEIGHTS), ("device", DEVICES), ("dtype", DTYPES)):
        value = getattr(grid, key)
        if value not in choices:
            raise GridError(f"{key} is {short(value)}; it is one of {', '.join(choices)}")
    for key, (least, most) in BOUNDS.items():
        value = attrgetter(key)(grid)
        if value is not None and value < least:
            raise GridError(f"{key} is {value}; it starts at {least}")
        if value is not None and value > most:
            raise GridError(f"{key} is {value}; it ends at {most}")
    if grid.timeout is not None and not 0 < grid.timeout <= MOST_SECONDS:
        raise GridError(
            f"timeout is {grid.timeout}; it is seconds a sample, above 0 and at most {MOST_SECONDS}"
        )
    grid.model = expanded(grid.model)
    for key in ("model", "attention", "revision", "out"):
        value = getattr(grid, key)
        if value is not None:
            check_path(key, value)
    if grid.out is not None and expanded(grid.out).startswith("~"):
        raise GridError(
            f"out is {short(grid.out)}, and there is no such home folder; write ./{short_key(grid.out)} for a folder"
        )


def _budgets(entries: Sequence[Any]) -> list[str]:
    """Normalised texts, each once."""
    budgets = []
    for entry in entries:
        try:
            budget = Budget.parse(entry)
        except BudgetError as error:
            raise GridError(f"budgets: {one_line(str(error), 200, tail=100)}") from None
        if budget.amount > MOST_TOKENS:
            raise GridError(
                f"budgets: {short(str(budget))} is a count beyond any image; the most is {MOST_TOKENS}"
            )
        budgets.append(str(budget))
    return list(dict.fromkeys(budgets))


def _tasks(entries: Sequence[Any]) -> list[str]:
    """Names, suites replaced by their tasks, each once; whether a public task exists is lmms-eval's
    to say.
    """
    from prunebench import benchmarks

    names: list[str] = []
    for entry in entries:
        if not isinstance(entry, str):
            raise GridError(
                f"task {short(entry)} is no name; write scenes_mixed, gqa or ./my_task.yaml"
            )
        check_path("a task", entry)
        try:
            names += benchmarks.expand(expanded(entry))
        except benchmarks.TaskError as error:
            raise GridError(str(error)) from None
    folders: dict[str, str] = {}
    for name in dict.fromkeys(names):
        folder = slug(name).lower()  # some file systems make no difference
        twin = folders.setdefault(folder, name)
        if twin != name:
            raise GridError(
                f"tasks {short(twin)} and {short(name)} would share the folder name {short(folder)}; rename one"
            )
    return list(folders.values())


# ---- methods -------------------------------------------------------------------------------------


def _entries(methods: Sequence[Any], controls: bool) -> list[dict[str, Any]]:
    """The mapping behind every method, with its name and label, each once, controls first; nothing
    is imported.

    Raises GridError.
    """
    entries: list[dict[str, Any]] = []
    for method in methods:
        entries += (
            [_entry(name) for name in registry.names()] if method == "all" else [_entry(method)]
        )
    if controls:
        labels = [entry["label"] for entry in entries]
        entries = [_entry(name) for name in CONTROLS if name not in labels] + entries
    different: list[dict[str, Any]] = []
    for entry in entries:
        if entry not in different:
            different.append(entry)
    return sorted(different, key=_rank)


def _rank(entry: Mapping[str, Any]) -> int:
    return CONTROLS.index(entry["name"]) if entry["name"] in CONTROLS else len(CONTROLS)


def _entry(method: Any) -> dict[str, Any]:
    if isinstance(method, str):
        method = {"name": method}
    if not isinstance(method, Mapping) or not isinstance(method.get("name"), str):
        raise GridError(f"method {short(method)} is neither a name nor a mapping with a name")
    check_path("a method", method["name"])
    name = expanded(method["name"])
    is_file = name.endswith(".py") or "/" in name
    if not is_file and name not in registry.names():
        near = registry.suggest(name[:100], registry.names())
        raise GridError(f"unknown method {short(name)}{near}")
    label = method.get("label", Path(name).stem if is_file else name)
    check_label(label, name)
    if label in CONTROLS and name != label:
        raise GridError(f"label {label!r} is that of the control; give {short(name)} another")
    positions = method.get("positions")
    if positions not in (None, "original", "compact"):
        raise GridError(f"{label}.positions is {short(positions)}; it is original or compact")
    return {**method, "name": name, "label": label}


def _variants(methods: Sequence[Any], controls: bool) -> list[Variant]:
    variants: dict[str, Variant] = {}
    spellings: dict[str, str] = {}
    for entry in _entries(methods, controls):
        variant = _variant(entry)
        twin = spellings.setdefault(variant.label.lower(), variant.label)
        if twin != variant.label:
            raise GridError(
                f"labels {twin!r} and {variant.label!r} differ in capitals alone, as folders may not; change one"
            )
        if not _same(variants.setdefault(variant.label, variant), variant):
            raise GridError(
                f"two methods are labelled {variant.label!r}; give each mapping a label of its own"
            )
    return list(variants.values())


def _same(one: Variant, other: Variant) -> bool:
    return one is other or plain.storable(one.entry()) == plain.storable(other.entry())


def _variant(entry: Mapping[str, Any]) -> Variant:
    """The method of an entry, built; raises GridError where it does not build, whatever its code
    raises.
    """
    settings = {key: value for key, value in entry.items() if key not in BESIDE}
    name, label = entry["name"], entry["label"]
    try:
        pruner: Pruner = registry.build(name, settings)
        _see_site(pruner)
    except registry.RegistryError as error:
        raise GridError(message(error)) from None
    except (TypeError, ValueError) as error:  # a setting that names no site
        raise GridError(
            f"{label} {short(settings) if settings else ''}: {message(error)}"
        ) from None
    except BaseException as error:  # code of others, which may even try to end the program
        if interrupts(error):
            raise
        raise GridError(
            f"method {short_path(Path(name))} cannot be built: {type(error).__name__}: {message(error)}"
        ) from None
    return Variant(label, name, pruner, entry.get("positions"))


def _see_site(pruner: Pruner) -> None:
    """Ask a method where it prunes, as its settings may name no place; what else fails in there
    fails its own cells.
    """
    try:
        pruner.site()
    except (TypeError, ValueError):
        raise
    except BaseException as error:
        if interrupts(error):
            raise


def _with_settings(grid: Grid, settings: options.Settings) -> list[Any]:
    """The grid's methods with "fastv.layer=3" settings put where the label is theirs."""
    entries = _entries(grid.methods, grid.controls)
    labels = [entry["label"] for entry in entries]
    for label, values in settings.items():
        key = f"{short_key(label)}.{short_key(next(iter(values)))}"
        if label not in labels:
            near = registry.suggest(
                label[:100],
                [*options.keys(Grid), *labels],
                "; it is neither a key nor a method of the grid",
            )
            raise GridError(f"unknown key {key}{near}")
        plain.check(values, label)
    return [{**entry, **settings.get(entry["label"], {})} for entry in entries]


# ---- comparing -----------------------------------------------------------------------------------


def _usual() -> dict[str, Any]:
    """The question's keys at their defaults."""
    grid = Grid()
    usual = {f.name: getattr(grid, f.name) for f in fields(grid) if f.name != "out"}
    return {**usual, "cost": asdict(grid.cost)}


def _completed(stored: Mapping[str, Any], grid: Grid) -> dict[str, Any]:
    """A stored question in the form of `Grid.question`, with defaults where it says nothing; raises
    GridError.
    """
    usual = _usual()
    asked = {**usual, **stored}
    cost = asked["cost"]
    if isinstance(cost, bool):
        cost = {"enabled": cost}
    asked["cost"] = {**usual["cost"], **cost} if isinstance(cost, Mapping) else cost
    for key in LISTS:
        if not isinstance(asked[key], list):
            asked[key] = [asked[key]]
    try:
        asked["budgets"] = _budgets(asked["budgets"])
        asked["tasks"] = _tasks(asked["tasks"])
        entries = _entries(asked["methods"], asked["controls"] is True)
    except PlainError as error:
        raise GridError(str(error)) from None
    defaults = {variant.label: _defaults(variant) for variant in grid.variants()}
    asked["methods"] = [{**defaults.get(entry["label"], {}), **entry} for entry in entries]
    return asked


def _defaults(variant: Variant) -> dict[str, Any]:
    """The settings of a variant's method where nothing is said."""
    try:
        usual = replace(variant, pruner=type(variant.pruner)(), positions=None)
        entry = usual.entry()
    except Exception:  # it has a setting without a default, so none of its entries leaves that out
        return {}
    return {key: plain.storable(value) for key, value in entry.items() if key not in BESIDE}


def _differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    lines = []
    for key in {**first, **second}:
        if key == "methods":
            lines += _method_differences(first[key], second[key])
        elif key not in second:
            lines.append(f"{short_key(key)} is {short(first[key])} there and no key here")
        elif first.get(key) != second[key]:
            lines.append(f"{key} is {short(first.get(key))} there and {short(second[key])} here")
    return lines


def _method_differences(
    first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]]
) -> list[str]:
    there = {entry["label"]: entry for entry in first}
    here = {entry["label"]: entry for entry in second}
    lines = []
    for label in {**there, **here}:
        if label not in here or label not in there:
            lines.append(f"method {label} is only {'there' if label in there else 'here'}")
            continue
        for key in {**there[label], **here[label]}:
            values = there[label].get(key), here[label].get(key)
            if values[0] != values[1]:
                lines.append(
                    f"{label}.{key} is {short(values[0])} there and {short(values[1])} here"
                )
    return lines
